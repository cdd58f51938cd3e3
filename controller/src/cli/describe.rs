//! `hearth describe function`: all that is known about one, on one page.

use std::fmt::Write;

use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;

use hearth_function::{ConditionStatus, Function, Revision};

use super::args::Describe;
use super::client::Server;
use super::error::Error;
use super::get::{list_instances, state};
use super::out;
use crate::api::ports::{Activity, Instance};

/// Runs the command.
pub(super) async fn run(arguments: Describe) -> Result<(), Error> {
    if let [kind, name] = arguments.what.as_slice()
        && matches!(kind.as_str(), "revision" | "revisions" | "rev")
    {
        return describe_revision(&arguments, name).await;
    }
    let [name] = super::names(&arguments.what, "describe", &arguments.place)? else {
        return Err(Error::Usage {
            what: "describe takes one function or one revision".to_owned(),
            fix: "hearth describe function NAME, or hearth describe revision NAME".to_owned(),
        });
    };
    let (server, namespace) = Server::open(&arguments.place).await?;
    let function =
        server.functions(Some(&namespace)).get(name).await.map_err(|error| server.explain(&error))?;
    let of_function = ListParams::default().labels(&format!("{}={name}", hearth_function::FUNCTION_LABEL));
    let revisions = server
        .revisions(Some(&namespace))
        .list(&of_function)
        .await
        .map_err(|error| server.explain(&error))?
        .items;
    let instances: Vec<Instance> = list_instances(&server, Some(&namespace), None)
        .await?
        .into_iter()
        .filter(|instance| instance.function.as_ref().is_some_and(|function| function.name() == name))
        .collect();
    let activity: Activity =
        server.get(&format!("/apis/hearth.dev/v1/namespaces/{namespace}/functions/{name}/activity")).await?;
    match arguments.output.form {
        Some(format) => {
            let all = json!({ "function": function, "revisions": revisions, "instances": instances, "activity": activity });
            out::object(&all, format)
        }
        None => out::text(&page(&function, &revisions, &instances, &activity, Timestamp::now())?),
    }
}

/// A Revision is small: its object is all there is, with the instances that run it.
async fn describe_revision(arguments: &Describe, name: &str) -> Result<(), Error> {
    let (server, namespace) = Server::open(&arguments.place).await?;
    let revision =
        server.revisions(Some(&namespace)).get(name).await.map_err(|error| server.explain(&error))?;
    let of_it = |instance: &Instance| {
        let known = instance.revision.as_ref();
        known.is_some_and(|known| known.namespace() == namespace && known.name() == name)
    };
    let instances: Vec<Instance> =
        list_instances(&server, Some(&namespace), None).await?.into_iter().filter(of_it).collect();
    match arguments.output.form {
        Some(format) => out::object(&json!({ "revision": revision, "instances": instances }), format),
        None => out::text(&revision_page(&revision, &instances, Timestamp::now())?),
    }
}

fn revision_page(revision: &Revision, instances: &[Instance], now: Timestamp) -> Result<String, Error> {
    let status = revision.status.clone().unwrap_or_default();
    let created = revision.metadata.creation_timestamp.as_ref().map(|time| out::age(time.0, now));
    let mut page = String::new();
    for (name, value) in [
        ("Name", revision.name_any()),
        ("Namespace", revision.namespace().unwrap_or_default()),
        ("Function", revision.spec.function.clone()),
        ("State", format!("{:?}", status.state)),
        ("Age", created.unwrap_or_default()),
        ("Message", status.message.unwrap_or_default().trim_end().replace('\n', "\n            ")),
    ] {
        let value = if value.is_empty() { "-".to_owned() } else { value };
        push(&mut page, &format!("{:<12}{value}", format!("{name}:")));
    }
    section(
        &mut page,
        "Instances",
        &["NAME", "REVISION", "STATE", "IN FLIGHT", "AGE", "MEMORY"],
        instance_rows(instances, now),
    );
    push(&mut page, "\nTemplate:");
    for line in out::yaml(&revision.spec.template)?.lines() {
        push(&mut page, &format!("  {line}"));
    }
    Ok(page)
}

fn page(
    function: &Function,
    revisions: &[Revision],
    instances: &[Instance],
    activity: &Activity,
    now: Timestamp,
) -> Result<String, Error> {
    let status = function.status.clone().unwrap_or_default();
    let mut page = String::new();
    let created = function.metadata.creation_timestamp.as_ref().map(|time| out::age(time.0, now));
    let heads = [
        ("Name", function.name_any()),
        ("Namespace", function.namespace().unwrap_or_default()),
        ("State", state(function)),
        ("URL", status.url.unwrap_or_default()),
        ("Runtime", function.spec.runtime.to_string()),
        ("Revision", status.ready_revision.unwrap_or_default()),
        ("Instances", counted(instances)),
        ("Calls", format!("{} running, {} waiting", activity.in_flight, activity.waiting)),
        ("Age", created.unwrap_or_default()),
    ];
    for (name, value) in heads {
        let value = if value.is_empty() { "-".to_owned() } else { value };
        push(&mut page, &format!("{:<12}{value}", format!("{name}:")));
    }
    section(
        &mut page,
        "Conditions",
        &["TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"],
        conditions(function, now),
    );
    section(&mut page, "Revisions", &["NAME", "STATE", "AGE", "MESSAGE"], revision_rows(revisions, now));
    section(
        &mut page,
        "Instances",
        &["NAME", "REVISION", "STATE", "IN FLIGHT", "AGE", "MEMORY"],
        instance_rows(instances, now),
    );
    section(
        &mut page,
        "Last starts",
        &["WHEN", "INSTANCE", "REVISION", "PHASES", "FAILURE"],
        starts(activity, now),
    );
    let decisions = activity
        .decisions
        .iter()
        .map(|decision| vec![ago(&decision.time, now), decision.message.clone()])
        .collect();
    section(&mut page, "Last decisions", &["WHEN", "DECISION"], decisions);
    push(&mut page, "\nSpec:");
    for line in out::yaml(&function.spec)?.lines() {
        push(&mut page, &format!("  {line}"));
    }
    Ok(page)
}

fn conditions(function: &Function, now: Timestamp) -> Vec<Vec<String>> {
    let conditions = function.status.iter().flat_map(|status| &status.conditions);
    let row = |condition: &hearth_function::Condition| {
        vec![
            condition.condition_type.to_string(),
            match condition.status {
                ConditionStatus::True => "yes".to_owned(),
                ConditionStatus::False => "no".to_owned(),
                ConditionStatus::Unknown => "unknown".to_owned(),
            },
            condition.reason.clone(),
            out::age(condition.last_transition_time.0, now),
            // A start's last lines are among it: told below each other they stay readable.
            condition.message.trim_end().replace('\n', "\n      "),
        ]
    };
    conditions.map(row).collect()
}

fn revision_rows(revisions: &[Revision], now: Timestamp) -> Vec<Vec<String>> {
    let mut rows: Vec<_> = revisions
        .iter()
        .map(|revision| {
            let status = revision.status.clone().unwrap_or_default();
            let created = revision.metadata.creation_timestamp.as_ref().map(|time| out::age(time.0, now));
            vec![
                revision.name_any(),
                format!("{:?}", status.state),
                created.unwrap_or_default(),
                out::first_line(&status.message.unwrap_or_default()),
            ]
        })
        .collect();
    rows.sort();
    rows
}

/// How many there are, by the list that is shown too: what the status says may be a second older.
fn counted(instances: &[Instance]) -> String {
    let count = |of: &dyn Fn(&Instance) -> bool| instances.iter().filter(|one| of(one)).count();
    let ready = count(&|one| matches!(state_of(one), "Ready" | "Paused"));
    let busy = count(&|one| one.in_flight > 0);
    let paused = count(&|one| state_of(one) == "Paused");
    let starting = count(&|one| matches!(state_of(one), "Starting" | "Loading"));
    format!("{ready} ready ({busy} busy, {paused} paused), {starting} starting")
}

/// One that stands still is Ready and paused.
fn state_of(instance: &Instance) -> &str {
    if instance.state == "Ready" && instance.rung.as_deref() == Some("paused") {
        return "Paused";
    }
    &instance.state
}

fn instance_rows(instances: &[Instance], now: Timestamp) -> Vec<Vec<String>> {
    let row = |instance: &Instance| {
        vec![
            instance.name.to_string(),
            instance.revision.as_ref().map(|revision| revision.name().to_owned()).unwrap_or_default(),
            instance.reason.as_ref().map_or_else(
                || state_of(instance).to_owned(),
                |reason| format!("{} ({reason})", instance.state),
            ),
            format!("{}/{}", instance.in_flight, instance.slots),
            ago(&instance.started, now),
            instance.memory_bytes.map(out::bytes_for_people).unwrap_or_default(),
        ]
    };
    instances.iter().map(row).collect()
}

fn starts(activity: &Activity, now: Timestamp) -> Vec<Vec<String>> {
    let row = |start: &crate::api::ports::StartRecord| {
        let total: f64 = start.phases_ms.values().sum();
        // In the order in which they happen; what we do not know comes last.
        let order = ["schedule", "create", "boot", "load"];
        let known = order.iter().filter_map(|name| start.phases_ms.get(*name).map(|ms| (*name, ms)));
        let other = start
            .phases_ms
            .iter()
            .filter(|(name, _)| !order.contains(&name.as_str()))
            .map(|(name, ms)| (name.as_str(), ms));
        let phases: Vec<String> = known.chain(other).map(|(name, ms)| format!("{name} {ms:.1}")).collect();
        vec![
            ago(&start.time, now),
            start.instance.to_string(),
            start.revision.name().to_owned(),
            format!("{} = {total:.1} ms", phases.join(" + ")),
            start.failure.as_deref().map(out::first_line).unwrap_or_default(),
        ]
    };
    activity.starts.iter().map(row).collect()
}

fn ago(time: &str, now: Timestamp) -> String {
    time.parse().map_or_else(|_| time.to_owned(), |then| out::age(then, now))
}

fn section(page: &mut String, title: &str, header: &[&str], rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    push(page, &format!("\n{title}:"));
    for line in out::table(header, &rows).lines() {
        push(page, &format!("  {line}"));
    }
}

fn push(page: &mut String, line: &str) {
    writeln!(page, "{}", line.trim_end()).expect("writing to a String does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(state: &str, rung: Option<&str>, in_flight: u32) -> Instance {
        let object = serde_json::json!({
            "name": "hello-x", "state": state, "rung": rung, "inFlight": in_flight, "slots": 1,
            "started": "2026-01-01T00:00:00Z",
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn an_instance_that_stands_still_is_counted_once_and_shown_as_paused() {
        let all = [
            instance("Ready", Some("paused"), 0),
            instance("Ready", Some("active"), 1),
            instance("Starting", None, 0),
            instance("Draining", None, 1),
        ];
        assert_eq!(counted(&all), "2 ready (2 busy, 1 paused), 1 starting");
        let rows = instance_rows(&all, Timestamp::UNIX_EPOCH);
        assert_eq!([&rows[0][2], &rows[1][2], &rows[2][2]], ["Paused", "Ready", "Starting"]);
    }
}
