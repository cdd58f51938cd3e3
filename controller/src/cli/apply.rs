//! `hearth apply`: packs what manifests name, uploads what the server lacks, stores the Functions and waits until they are ready.

use std::path::Path;
use std::time::Duration;

use futures_util::TryStreamExt;
use http::{Request, StatusCode};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use kube::client::Body;
use kube::runtime::watcher::{self, watcher};

use hearth_function::spec::Source;
use hearth_function::{
    ConditionStatus, ConditionType, Digest, Function, FunctionSpec, RETRY_ANNOTATION, Template,
};

use super::args::Apply;
use super::client::Server;
use super::error::Error;
use super::kubectl;
use super::manifest::{self, Manifest};
use super::out::{self, Paint};
use super::patience::{self, Why};
use super::progress::Progress;
use crate::build::{self, PackOptions, Packed, pack};
use crate::deploy;

/// On everything that `up` applied.
pub(super) const UP_LABEL: &str = "hearth.dev/up";

/// How the store changed by an apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was not there.
    Created,
    /// It is another now, and so is what runs.
    Configured,
    /// It is another now; what runs (its template) is the same: no new Revision.
    Adjusted,
    /// It was so already, and had failed: it is tried again.
    Retried,
    /// It was so already.
    Unchanged,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Adjusted => "configured (no new revision)",
            Self::Retried => "unchanged, tried again",
            Self::Unchanged => "unchanged",
        }
    }
}

/// Runs the command.
pub(super) async fn run(arguments: Apply) -> Result<(), Error> {
    let manifests = manifest::read_all(&arguments.filename, manifest::Sources::Needed)?;
    let (server, default) = Server::open(&arguments.place).await?;
    let mut applied = Vec::new();
    let mut failures = Vec::new();
    for manifest in &manifests {
        let name = manifest.function.name_any();
        match by_hand(&server, manifest, &default).await {
            Ok((function, outcome)) => {
                if arguments.output.is_none() {
                    out::line(&format!("function {name} {}", outcome.word()))?;
                }
                applied.push((function, outcome));
            }
            // The others are applied all the same; a server that is gone is told once.
            Err(error @ (Error::Failed { .. } | Error::Manifests(_))) if manifests.len() > 1 => {
                failures.push((name, error))
            }
            Err(error) => return Err(error),
        }
    }
    for (name, error) in &failures {
        out::note(&format!("function {name}:"));
        error.show();
    }
    let mut failed = !failures.is_empty();
    if !arguments.no_wait {
        let end = tokio::time::Instant::now() + arguments.timeout;
        for (function, outcome) in &mut applied {
            match tokio::time::timeout_at(end, ready(&server, function, *outcome)).await {
                Ok(Ok(ready)) => *function = ready,
                Ok(Err(error)) => {
                    error.show();
                    failed = true;
                }
                Err(_) => {
                    too_slow(&server, function, arguments.timeout).show();
                    failed = true;
                }
            }
        }
    }
    let applied: Vec<Function> = applied.into_iter().map(|(function, _)| function).collect();
    match arguments.output {
        Some(format) if applied.len() == 1 => out::object(&applied[0], format)?,
        Some(format) => {
            out::object(&serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": applied }), format)?
        }
        None => {}
    }
    if failed { Err(Error::Shown) } else { Ok(()) }
}

fn too_slow(server: &Server, function: &Function, timeout: Duration) -> Error {
    let (name, place) = (function.name_any(), server.place_of(function));
    Error::fixable(
        format!("function {name} is not ready after {}", humantime::format_duration(timeout)),
        format!(
            "it may still come up: see `hearth describe function {name}{place}`, or wait longer with --timeout"
        ),
    )
}

/// Applies one manifest for good: what an earlier `up` had is its no more, and the next one leaves it.
async fn by_hand(
    server: &Server,
    manifest: &Manifest,
    default_namespace: &str,
) -> Result<(Function, Outcome), Error> {
    let (function, outcome) = one(server, manifest, default_namespace).await?;
    if !function.labels().contains_key(UP_LABEL) || manifest.function.labels().contains_key(UP_LABEL) {
        return Ok((function, outcome));
    }
    let without = serde_json::json!({ "metadata": { "labels": { UP_LABEL: null } } });
    let function = server
        .functions(function.namespace().as_deref())
        .patch(&function.name_any(), &PatchParams::default(), &Patch::Merge(&without))
        .await
        .map_err(|error| server.explain(&error))?;
    Ok((function, outcome))
}

/// Applies one manifest: its code first, then the object.
pub(super) async fn one(
    server: &Server,
    manifest: &Manifest,
    default_namespace: &str,
) -> Result<(Function, Outcome), Error> {
    let mut function = manifest.in_namespace(default_namespace);
    let namespace = function.namespace().unwrap_or_default();
    if let Some(packed) = packed(manifest).await? {
        upload(server, &function.name_any(), &packed).await?;
        function.spec.source = Source::from_bundle(packed.digest);
    }
    let name = function.name_any();
    let functions = server.functions(Some(&namespace));
    kubectl::note_applied(&mut function);
    let before = functions.get_opt(&name).await.map_err(|error| server.explain(&error))?;
    let after = kubectl::apply(&functions, &function).await.map_err(|error| server.explain(&error))?;
    let outcome = match before {
        None => Outcome::Created,
        Some(before)
            if before.metadata.generation == after.metadata.generation
                && before.metadata.labels == after.metadata.labels =>
        {
            if matches!(verdict(&after), Verdict::Failed { .. }) {
                let again = serde_json::json!({
                    "metadata": { "annotations": { RETRY_ANNOTATION: jiff::Timestamp::now().to_string() } },
                });
                let after = functions
                    .patch(&name, &PatchParams::default(), &Patch::Merge(&again))
                    .await
                    .map_err(|error| server.explain(&error))?;
                return Ok((after, Outcome::Retried));
            }
            Outcome::Unchanged
        }
        Some(before) if same_template(&before.spec, &after.spec) => Outcome::Adjusted,
        Some(_) => Outcome::Configured,
    };
    Ok((after, outcome))
}

/// Whether two specs run the same: they differ at most in routes and scale.
fn same_template(before: &FunctionSpec, after: &FunctionSpec) -> bool {
    let digest = Digest::of(b"");
    before.source == after.source
        && Template::of(before, digest.clone()).digest() == Template::of(after, digest).digest()
}

/// What is to be known of a Function that is ready all the same: a route that it did not get, or what it asks for beside.
pub(super) fn caveat(function: &Function) -> Option<String> {
    let status = function.status.as_ref()?;
    let routes = status.condition(ConditionType::RoutesReady);
    let lost = routes.filter(|routes| routes.status == ConditionStatus::False);
    let said = [lost.map(|routes| routes.message.as_str()), deploy::reservation(status)];
    let said: Vec<&str> = said.into_iter().flatten().collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// The bundle of a manifest that names a directory.
pub(super) async fn packed(manifest: &Manifest) -> Result<Option<Packed>, Error> {
    let Some(directory) = manifest.source_directory() else { return Ok(None) };
    let name = manifest.function.name_any();
    // The manifest is no code, and must not change the bundle's digest.
    let exclude = manifest.file.iter().filter_map(|file| file.canonicalize().ok()).collect();
    let options = PackOptions { exclude, ..PackOptions::default() };
    let packing = tokio::task::spawn_blocking(move || pack(&directory, &options)).await;
    let packed = packing.map_err(|error| Error::failed(format!("packing function {name}: {error}")))?;
    packed.map(Some).map_err(|error| {
        let fix = match &error {
            build::pack::Error::NotADirectory(_) => {
                let given = manifest.function.spec.source.path.as_deref().unwrap_or_default();
                Some(format!("{given:?} is looked for beside the manifest: name the directory with the code"))
            }
            _ => None,
        };
        manifest.problem("spec.source.path", crate::telemetry::chain(&error), fix)
    })
}

async fn upload(server: &Server, name: &str, packed: &Packed) -> Result<(), Error> {
    let path = format!("/bundles/{}", packed.digest);
    let request = |builder: http::request::Builder, body: Vec<u8>| {
        builder.body(Body::from(body)).map_err(|error| Error::failed(error.to_string()))
    };
    let ask = |before| {
        if before == Some(Why::OtherToken) {
            // The controller may have been the newer of the two, or the Secret.
            server.look_again();
        }
        // Not HEAD: a refusal of that has no reason in it.
        let look = request(Request::get(&path), Vec::new());
        async move {
            let answer = server.send_raw(look?).await?;
            let why = server.unsettled(answer.status());
            Ok((answer, why))
        }
    };
    let progress = Progress::new(name);
    let progress = &progress;
    let waits = |why| async move {
        progress.say(match why {
            Why::NobodyWorks => "waiting for the controller, which answers no request",
            Why::OtherToken => "waiting for a controller that takes the token: an upgrade may be under way",
        });
        if why == Why::NobodyWorks
            && let Some(whom) = server.waits_for().await
        {
            progress.say(&format!("waiting for the controller: {whom}"));
        }
    };
    let there = patience::settled(ask, waits).await?;
    match there.status() {
        status if status.is_success() => return Ok(()),
        StatusCode::NOT_FOUND => {}
        _ => return Err(server.refusal(there).await),
    }
    progress.say(&format!(
        "uploading {} ({} files)",
        out::bytes_for_people(packed.bytes.len() as u64),
        packed.files
    ));
    server.send(request(Request::put(&path), packed.bytes.clone())?).await?;
    Ok(())
}

/// A Function that nobody has looked at for so long waits for a controller.
const UNSEEN: Duration = Duration::from_secs(5);

/// What is said of it first.
const UNSEEN_YET: &str = "waiting for the server";

/// How long the failure of a Function that is tried again is taken for the one before.
const OLD_NEWS: Duration = Duration::from_secs(10);

/// Waits until the Function is ready as it was applied, and tells how it goes.
///
/// # Errors
/// The reason, when it does not come up.
pub(super) async fn ready(server: &Server, applied: &Function, outcome: Outcome) -> Result<Function, Error> {
    let mut old_news = (outcome == Outcome::Retried).then(|| tokio::time::Instant::now() + OLD_NEWS);
    let name = applied.name_any();
    let functions = server.functions(applied.namespace().as_deref());
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = Box::pin(watcher(functions.clone(), config.clone()));
    let progress = Progress::new(&name);
    let mut failures = 0;
    let mut unseen = Some(tokio::time::Instant::now() + UNSEEN);
    loop {
        let event = match old_news {
            Some(until) => match tokio::time::timeout_at(until, events.try_next()).await {
                Ok(event) => event,
                // Nothing has come of it: it is as it was.
                Err(_) => {
                    old_news = None;
                    events = Box::pin(watcher(functions.clone(), config.clone()));
                    continue;
                }
            },
            None => match unseen {
                Some(at) => match tokio::time::timeout_at(at, events.try_next()).await {
                    Ok(event) => event,
                    Err(_) => {
                        unseen = None;
                        if let Some(whom) = server.waits_for().await {
                            progress.say(&format!("waiting for the controller: {whom}"));
                        }
                        continue;
                    }
                },
                None => events.try_next().await,
            },
        };
        let function = match event {
            Ok(Some(watcher::Event::Apply(function) | watcher::Event::InitApply(function))) => function,
            Ok(Some(watcher::Event::Delete(_))) => {
                return Err(Error::failed(format!("function {name} was deleted meanwhile")));
            }
            Ok(Some(watcher::Event::Init | watcher::Event::InitDone)) => continue,
            // The watcher tries again by itself; a server that stays away is told, and one that refuses at once.
            Err(error) if failures == 0 && !super::get::is_refused(&error) => {
                failures += 1;
                continue;
            }
            Ok(None) => {
                return Err(Error::failed(format!("lost the server while waiting for function {name}")));
            }
            Err(error) => return Err(not_waited_for(server, &name, &error)),
        };
        failures = 0;
        match verdict(&function) {
            Verdict::Ready => {
                progress.done(&format!(
                    "ready at {}",
                    function
                        .status
                        .as_ref()
                        .and_then(|status| status.url.as_deref())
                        .unwrap_or("its address")
                ));
                if let Some(caveat) = caveat(&function) {
                    out::note(&format!("{name}: {}", out::paint_stderr(&caveat, Paint::Bad)));
                }
                return Ok(function);
            }
            Verdict::Failed { .. } if old_news.is_some() => {}
            Verdict::Failed { reason, message } => {
                return Err(not_up(&name, &server.place_of(&function), &reason, &message));
            }
            Verdict::Busy(what) => {
                old_news = None;
                if what != UNSEEN_YET {
                    unseen = None;
                }
                progress.say(&what);
            }
        }
    }
}

/// The Function is stored, and how it goes cannot be seen.
fn not_waited_for(server: &Server, name: &str, error: &watcher::Error) -> Error {
    let cause = super::get::lost(server, error);
    if !super::get::is_refused(error) {
        let Error::Failed { what, mut details, fix } = cause else { return cause };
        details.insert(0, what);
        return Error::Failed {
            what: format!("lost the server while waiting for function {name}"),
            details,
            fix,
        };
    }
    let Error::Failed { what, details, .. } = cause else { return cause };
    Error::Failed {
        what: format!("function {name} is applied, and may not be waited for: {what}"),
        details,
        fix: Some("waiting needs `list` and `watch` on functions; --no-wait does without".to_owned()),
    }
}

/// Where a Function stands, seen from its conditions.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It answers, as it is declared.
    Ready,
    /// It will not, until something is changed.
    Failed {
        /// For programs.
        reason: String,
        /// For people; may have several lines.
        message: String,
    },
    /// On its way.
    Busy(String),
}

pub(super) fn verdict(function: &Function) -> Verdict {
    let Some(status) = &function.status else { return Verdict::Busy(UNSEEN_YET.to_owned()) };
    if status.observed_generation < function.metadata.generation {
        return Verdict::Busy(UNSEEN_YET.to_owned());
    }
    let false_one = status.conditions.iter().find(|condition| condition.status == ConditionStatus::False);
    match status.condition(ConditionType::Ready) {
        Some(ready) if ready.status == ConditionStatus::True => Verdict::Ready,
        // The condition that it follows from says more.
        Some(ready) if ready.status == ConditionStatus::False => {
            let why = false_one.filter(|other| !other.message.is_empty()).unwrap_or(ready);
            let said = if ready.message.is_empty() { why } else { ready };
            Verdict::Failed { reason: said.reason.clone(), message: said.message.clone() }
        }
        Some(ready) if !ready.message.is_empty() => Verdict::Busy(ready.message.clone()),
        Some(_) | None => Verdict::Busy("starting".to_owned()),
    }
}

fn not_up(name: &str, place: &str, reason: &str, message: &str) -> Error {
    let mut lines = message.lines();
    let first = lines.next().unwrap_or(reason);
    Error::Failed {
        what: format!("function {name}: {first} ({reason})"),
        details: lines.map(str::to_owned).collect(),
        fix: Some(super::hint::of(message).unwrap_or_else(|| {
            format!("`hearth describe function {name}{place}` and `hearth logs {name}{place}` say more")
        })),
    }
}

/// Whether a path is one a change of which is of no interest: what packing leaves out.
pub(super) fn is_ignored(path: &Path) -> bool {
    path.components().any(|part| {
        let name = part.as_os_str();
        build::is_scratch(name) || matches!(name.to_str(), Some("node_modules" | ".venv"))
    })
}

#[cfg(test)]
mod tests;
