//! `hearth get`: lists, and goes on with changes.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt;
use jiff::Timestamp;
use kube::api::ListParams;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use hearth_function::{ConditionStatus, ConditionType, Function, Revision};

use super::args::{Format, Get, ListFormat, Resource};
use super::client::Server;
use super::error::Error;
use super::out::{self, Columns};
use crate::api::ports::Instance;

/// Between two looks at the instances: they are no resource that can be watched.
const INSTANCES_EVERY: Duration = Duration::from_secs(1);

/// Something that is listed.
trait Row {
    /// Titles of the columns; with namespace first when it is asked for.
    fn header(wide: bool) -> &'static [&'static str];
    /// The cells, in the order of the header.
    fn cells(&self, wide: bool, now: Timestamp) -> Vec<String>;
    /// Namespace and name.
    fn identity(&self) -> (String, String);
    /// What its row cannot say and is to be known.
    fn caveat(&self) -> Option<String> {
        None
    }
}

/// Runs the command.
pub(super) async fn run(arguments: Get) -> Result<(), Error> {
    let (server, namespace) = Server::open(&arguments.place).await?;
    let namespace = (!arguments.all_namespaces).then_some(namespace.as_str());
    match arguments.resource {
        Resource::Functions => objects(&server, server.functions(namespace), &arguments, namespace).await,
        Resource::Revisions => objects(&server, server.revisions(namespace), &arguments, namespace).await,
        Resource::Instances => instances(&server, &arguments, namespace).await,
    }
}

async fn objects<K>(
    server: &Server,
    api: Api<K>,
    arguments: &Get,
    namespace: Option<&str>,
) -> Result<(), Error>
where
    K: Row
        + kube::Resource<DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Serialize
        + std::fmt::Debug
        + Send
        + 'static,
{
    if arguments.watch {
        return watch(server, api, arguments).await;
    }
    let mut items = match &arguments.name {
        Some(name) => vec![api.get(name).await.map_err(|error| server.explain(&error))?],
        None => api.list(&ListParams::default()).await.map_err(|error| server.explain(&error))?.items,
    };
    // Who owns which field is for programs that apply; `kubectl get --show-managed-fields` shows it.
    items.iter_mut().for_each(|item| item.meta_mut().managed_fields = None);
    print(&items, arguments, namespace)
}

async fn watch<K>(server: &Server, api: Api<K>, arguments: &Get) -> Result<(), Error>
where
    K: Row
        + kube::Resource<DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Serialize
        + std::fmt::Debug
        + Send
        + 'static,
{
    let mut config = watcher::Config::default();
    if let Some(name) = &arguments.name {
        config = config.fields(&format!("metadata.name={name}"));
    }
    let mut events = pin!(watcher(api, config));
    let mut first: Option<Vec<K>> = Some(Vec::new());
    let mut printer = Printer::new(arguments);
    loop {
        let event = match events.try_next().await {
            Ok(Some(event)) => event.modify(|item| item.meta_mut().managed_fields = None),
            Ok(None) => return Ok(()),
            // A server that went away is told; the watcher itself would try for ever.
            Err(error) => return Err(lost(server, &error)),
        };
        match event {
            watcher::Event::Init => {}
            watcher::Event::InitApply(object) => match &mut first {
                Some(objects) => objects.push(object),
                // Listed anew after a gap: what changed meanwhile is among them.
                None => printer.changed(&object, false)?,
            },
            watcher::Event::InitDone => {
                if let Some(objects) = first.take() {
                    printer.start(&objects)?;
                }
            }
            watcher::Event::Apply(object) => printer.changed(&object, false)?,
            watcher::Event::Delete(object) => printer.changed(&object, true)?,
        }
    }
}

/// Whether the server does not allow it, and trying again changes nothing.
pub(super) fn is_refused(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.is_forbidden(),
        watcher::Error::WatchError(status) => status.is_forbidden(),
        _ => false,
    }
}

/// Why what is watched cannot be followed further.
pub(super) fn lost(server: &Server, error: &watcher::Error) -> Error {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => server.explain(error),
        watcher::Error::WatchError(status) => Error::failed(status.message.clone()),
        other => Error::failed(crate::telemetry::chain(other)),
    }
}

/// Prints objects as they change.
struct Printer {
    format: Option<ListFormat>,
    namespaced: bool,
    columns: Columns,
}

impl Printer {
    fn new(arguments: &Get) -> Self {
        Self {
            format: arguments.output,
            namespaced: arguments.all_namespaces,
            columns: Columns::new(&[], &[]),
        }
    }

    fn wide(&self) -> bool {
        self.format == Some(ListFormat::Wide)
    }

    fn start<K: Row + Serialize>(&mut self, objects: &[K]) -> Result<(), Error> {
        if !matches!(self.format, None | Some(ListFormat::Wide)) {
            return objects.iter().try_for_each(|object| self.changed(object, false));
        }
        let header = header::<K>(self.wide(), self.namespaced);
        let rows: Vec<_> = objects.iter().map(|object| row(object, self.wide(), self.namespaced)).collect();
        self.columns = Columns::new(&header, &rows);
        let lines = rows.iter().map(|row| self.columns.row(row));
        out::text(&std::iter::once(self.columns.row(&header)).chain(lines).collect::<String>())
    }

    fn changed<K: Row + Serialize>(&mut self, object: &K, deleted: bool) -> Result<(), Error> {
        match self.format {
            Some(ListFormat::Json) => {
                let json = serde_json::to_string(object).map_err(|error| Error::failed(error.to_string()))?;
                out::line(&json)
            }
            Some(ListFormat::Yaml) => out::text(&format!("---\n{}", out::yaml(object)?)),
            Some(ListFormat::Name) => out::line(&object.identity().1),
            None | Some(ListFormat::Wide) => {
                let line = self.columns.row(&row(object, self.wide(), self.namespaced));
                if deleted {
                    out::text(&format!("{}  (deleted)\n", line.trim_end()))
                } else {
                    out::text(&line)
                }
            }
        }
    }
}

fn header<K: Row>(wide: bool, namespaced: bool) -> Vec<&'static str> {
    namespaced.then_some("NAMESPACE").into_iter().chain(K::header(wide).iter().copied()).collect()
}

fn row<K: Row>(object: &K, wide: bool, namespaced: bool) -> Vec<String> {
    let namespace = namespaced.then(|| object.identity().0);
    namespace.into_iter().chain(object.cells(wide, Timestamp::now())).collect()
}

fn print<K: Row + Serialize>(items: &[K], arguments: &Get, namespace: Option<&str>) -> Result<(), Error> {
    let wide = arguments.output == Some(ListFormat::Wide);
    let format = match arguments.output {
        Some(ListFormat::Json) => Format::Json,
        Some(ListFormat::Yaml) => Format::Yaml,
        Some(ListFormat::Name) => {
            return out::text(&items.iter().map(|item| item.identity().1 + "\n").collect::<String>());
        }
        None | Some(ListFormat::Wide) => {
            if items.is_empty() {
                let place =
                    namespace.map(|namespace| format!(" in namespace {namespace}")).unwrap_or_default();
                out::note(&format!("There are none{place}."));
                return Ok(());
            }
            let rows: Vec<_> = items.iter().map(|item| row(item, wide, arguments.all_namespaces)).collect();
            out::text(&out::table(&header::<K>(wide, arguments.all_namespaces), &rows))?;
            for item in items {
                if let Some(caveat) = item.caveat() {
                    out::note(&format!("{}: {caveat}", item.identity().1));
                }
            }
            return Ok(());
        }
    };
    match (&arguments.name, items) {
        (Some(_), [one]) => out::object(one, format),
        _ => out::object(&json!({ "apiVersion": "v1", "kind": "List", "items": items }), format),
    }
}

async fn instances(server: &Server, arguments: &Get, namespace: Option<&str>) -> Result<(), Error> {
    let items = list_instances(server, namespace, arguments.name.as_deref()).await?;
    if let Some(name) = &arguments.name
        && items.is_empty()
        && !arguments.watch
    {
        return Err(Error::fixable(
            format!("there is no instance {name:?}"),
            "see `hearth get instances -A`",
        ));
    }
    if !arguments.watch {
        return print(&items, arguments, namespace);
    }
    let mut printer = Printer::new(arguments);
    printer.start(&items)?;
    let mut known: BTreeMap<String, Instance> = keyed(items);
    loop {
        tokio::time::sleep(INSTANCES_EVERY).await;
        let now = keyed(list_instances(server, namespace, arguments.name.as_deref()).await?);
        for (name, instance) in &now {
            let same = |before: &Instance| {
                (&before.state, &before.reason, before.in_flight)
                    == (&instance.state, &instance.reason, instance.in_flight)
            };
            if !known.get(name).is_some_and(same) {
                printer.changed(instance, false)?;
            }
        }
        for (name, instance) in &known {
            if !now.contains_key(name) {
                printer.changed(instance, true)?;
            }
        }
        known = now;
    }
}

fn keyed(items: Vec<Instance>) -> BTreeMap<String, Instance> {
    items.into_iter().map(|item| (item.name.to_string(), item)).collect()
}

/// The instances of a namespace, or all.
pub(super) async fn list_instances(
    server: &Server,
    namespace: Option<&str>,
    name: Option<&str>,
) -> Result<Vec<Instance>, Error> {
    let path = match namespace {
        Some(namespace) => format!("/apis/hearth.dev/v1/namespaces/{namespace}/instances"),
        None => "/apis/hearth.dev/v1/instances".to_owned(),
    };
    let mut answer: Value = server.get(&path).await?;
    let items: Vec<Instance> = serde_json::from_value(answer["items"].take()).map_err(|error| {
        Error::fixable(
            format!("the server's instances cannot be read: {error}"),
            "use a `hearth` of the server's version",
        )
    })?;
    Ok(items.into_iter().filter(|item| name.is_none_or(|name| item.name.as_str() == name)).collect())
}

/// `Ready`, or the reason why not: what one word can say about a function.
pub(super) fn state(function: &Function) -> String {
    let Some(status) = &function.status else { return "Pending".to_owned() };
    if status.observed_generation < function.metadata.generation {
        return "Pending".to_owned();
    }
    match status.condition(ConditionType::Ready) {
        Some(ready) if ready.status == ConditionStatus::True => "Ready".to_owned(),
        Some(condition) if !condition.reason.is_empty() => condition.reason.clone(),
        Some(_) | None => "Pending".to_owned(),
    }
}

fn created<K: kube::Resource>(object: &K, now: Timestamp) -> String {
    object.meta().creation_timestamp.as_ref().map(|time| out::age(time.0, now)).unwrap_or_default()
}

impl Row for Function {
    fn header(wide: bool) -> &'static [&'static str] {
        const ALL: [&str; 8] = ["NAME", "STATE", "URL", "INSTANCES", "AGE", "RUNTIME", "REVISION", "BUSY"];
        if wide { &ALL } else { &ALL[..5] }
    }

    fn cells(&self, wide: bool, now: Timestamp) -> Vec<String> {
        let status = self.status.clone().unwrap_or_default();
        let mut cells = vec![
            self.name_any(),
            state(self),
            status.url.unwrap_or_default(),
            status.instances.ready.to_string(),
            created(self, now),
        ];
        if wide {
            cells.extend([
                self.spec.runtime.to_string(),
                status.ready_revision.unwrap_or_default(),
                status.instances.busy.to_string(),
            ]);
        }
        cells
    }

    fn identity(&self) -> (String, String) {
        (self.namespace().unwrap_or_default(), self.name_any())
    }

    fn caveat(&self) -> Option<String> {
        super::apply::caveat(self)
    }
}

impl Row for Revision {
    fn header(wide: bool) -> &'static [&'static str] {
        const ALL: [&str; 6] = ["NAME", "FUNCTION", "STATE", "AGE", "CODE", "MESSAGE"];
        if wide { &ALL } else { &ALL[..4] }
    }

    fn cells(&self, wide: bool, now: Timestamp) -> Vec<String> {
        let status = self.status.clone().unwrap_or_default();
        let mut cells = vec![
            self.name_any(),
            self.spec.function.clone(),
            format!("{:?}", status.state),
            created(self, now),
        ];
        if wide {
            let template = &self.spec.template;
            let image = template.image.as_ref().map(|image| &image.digest);
            let code = template.bundle.as_ref().or(image).map(ToString::to_string).unwrap_or_default();
            let code: String = code.chars().take("sha256:".len() + 12).collect();
            cells.extend([code, out::first_line(&status.message.unwrap_or_default())]);
        }
        cells
    }

    fn identity(&self) -> (String, String) {
        (self.namespace().unwrap_or_default(), self.name_any())
    }
}

impl Row for Instance {
    fn header(wide: bool) -> &'static [&'static str] {
        const ALL: [&str; 8] = ["NAME", "FUNCTION", "STATE", "IN FLIGHT", "AGE", "REVISION", "MEMORY", "CPU"];
        if wide { &ALL } else { &ALL[..5] }
    }

    fn cells(&self, wide: bool, now: Timestamp) -> Vec<String> {
        let state = match &self.reason {
            Some(reason) => format!("{} ({reason})", self.state),
            None => self.state.clone(),
        };
        let mut cells = vec![
            self.name.to_string(),
            self.function.as_ref().map(|function| function.name().to_owned()).unwrap_or_default(),
            state,
            format!("{}/{}", self.in_flight, self.slots),
            self.started.parse().map(|then| out::age(then, now)).unwrap_or_default(),
        ];
        if wide {
            cells.extend([
                self.revision.as_ref().map(|revision| revision.name().to_owned()).unwrap_or_default(),
                self.memory_bytes.map(out::bytes_for_people).unwrap_or_default(),
                self.cpu_seconds.map(|seconds| format!("{seconds:.1}s")).unwrap_or_default(),
            ]);
        }
        cells
    }

    fn identity(&self) -> (String, String) {
        (
            self.function.as_ref().map(|function| function.namespace().to_owned()).unwrap_or_default(),
            self.name.to_string(),
        )
    }
}
