//! `hearth top`: the warmth ladder. What stands on each rung, what it holds, and what it takes to restore an instance from there.

use std::time::Duration;

use serde_json::json;

use super::args::Top;
use super::client::Server;
use super::error::Error;
use super::get::list_instances;
use super::out;
use crate::api::ports::{Instance, Ladder};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// Runs the command.
pub(super) async fn run(arguments: Top) -> Result<(), Error> {
    let server = Server::find(&arguments.place.client).await?;
    let namespace = arguments.place.namespace.as_deref();
    loop {
        let mut ladder: Ladder = server.get("/apis/hearth.dev/v1/ladder").await?;
        let instances = list_instances(&server, namespace, None).await?;
        if namespace.is_some() {
            ladder = part(ladder, &instances);
        }
        match arguments.output {
            Some(format) => out::object(&json!({ "ladder": ladder, "instances": instances }), format)?,
            None if arguments.watch && out::is_live() => {
                out::text(&in_place(&page(&ladder, &instances), out::rows()))?
            }
            None => out::text(&page(&ladder, &instances))?,
        }
        if !arguments.watch {
            return Ok(());
        }
        tokio::time::sleep(EVERY).await;
        if arguments.output.is_none() && !out::is_live() {
            out::line("")?;
        }
    }
}

/// What these instances are of the ladder. How long restorations take is the server's: there is no telling whose they were.
fn part(mut ladder: Ladder, instances: &[Instance]) -> Ladder {
    for rung in &mut ladder.rungs {
        let on_it = instances.iter().filter(|instance| instance.rung.as_ref() == Some(&rung.rung));
        let (count, bytes) = on_it.fold((0, 0), |(count, bytes), instance| {
            (count + 1, bytes + instance.memory_bytes.unwrap_or_default())
        });
        rung.instances = count;
        // Not known here where it is not known of the whole.
        rung.held_bytes = rung.held_bytes.map(|_| bytes);
    }
    ladder.pools.clear();
    ladder
}

/// A page from the top of the screen on, over the one before: without a moment of emptiness between them. What is below `rows` would scroll it away.
fn in_place(page: &str, rows: usize) -> String {
    let lines: String =
        page.lines().take(rows.saturating_sub(1)).map(|line| format!("{line}\u{1b}[K\n")).collect();
    format!("\u{1b}[H{lines}\u{1b}[J")
}

fn page(ladder: &Ladder, instances: &[Instance]) -> String {
    let bytes = |bytes: Option<u64>| bytes.map(out::bytes_for_people).unwrap_or_default();
    let millis = |time: Option<f64>| time.map(|time| format!("{time:.1} ms")).unwrap_or_default();
    let rungs: Vec<Vec<String>> = ladder
        .rungs
        .iter()
        .map(|rung| {
            vec![
                rung.rung.clone(),
                rung.instances.to_string(),
                bytes(rung.held_bytes),
                millis(rung.restore_p50_ms),
                millis(rung.restore_p99_ms),
                rung.restored.to_string(),
            ]
        })
        .collect();
    let mut page = out::table(&["RUNG", "INSTANCES", "HELD", "RESTORE P50", "P99", "OF THE LAST"], &rungs);
    if !ladder.pools.is_empty() {
        let pools: Vec<Vec<String>> = ladder
            .pools
            .iter()
            .map(|pool| {
                vec![
                    pool.class.clone(),
                    format!("{}/{}", pool.ready, pool.target),
                    pool.starting.to_string(),
                    bytes(pool.bytes_each),
                    pool.why.clone(),
                ]
            })
            .collect();
        page.push('\n');
        page.push_str(&out::table(&["POOL", "POOLED", "STARTING", "EACH", "WHY"], &pools));
    }
    if !instances.is_empty() {
        let rows: Vec<Vec<String>> = instances
            .iter()
            .map(|instance| {
                vec![
                    instance.name.to_string(),
                    instance.function.as_ref().map(ToString::to_string).unwrap_or_default(),
                    instance.rung.clone().unwrap_or_else(|| instance.state.to_lowercase()),
                    format!("{}/{}", instance.in_flight, instance.slots),
                    bytes(instance.memory_bytes),
                    instance.cpu_seconds.map(|seconds| format!("{seconds:.1}s")).unwrap_or_default(),
                ]
            })
            .collect();
        page.push('\n');
        page.push_str(&out::table(&["INSTANCE", "FUNCTION", "RUNG", "IN FLIGHT", "MEMORY", "CPU"], &rows));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ports::{PoolSize, Rung};

    #[test]
    fn a_page_takes_the_place_of_the_one_before() {
        assert_eq!(in_place("a\nb\nc\n", 3), "\u{1b}[Ha\u{1b}[K\nb\u{1b}[K\n\u{1b}[J");
    }

    #[test]
    fn a_namespace_has_its_own_instances_of_the_ladder_and_no_pools() {
        let rung =
            |rung: &str| Rung { rung: rung.to_owned(), instances: 9, held_bytes: Some(9), ..Rung::default() };
        let unmeasured = Rung { held_bytes: None, ..rung("reserved") };
        let rungs = vec![rung("paused"), rung("active"), unmeasured];
        let whole = Ladder { rungs, pools: vec![PoolSize::default()] };
        let instance = |rung: &str, bytes: u64| {
            let value = json!({
                "name": format!("i-{bytes}"), "state": "Ready", "rung": rung, "inFlight": 0, "slots": 1,
                "started": "2026-01-01T00:00:00Z", "memoryBytes": bytes,
            });
            serde_json::from_value::<Instance>(value).unwrap()
        };
        let ladder = part(whole, &[instance("active", 2), instance("active", 3)]);
        let counted: Vec<_> = ladder.rungs.iter().map(|rung| (rung.instances, rung.held_bytes)).collect();
        assert_eq!((counted, ladder.pools.len()), (vec![(0, Some(0)), (2, Some(5)), (0, None)], 0));
    }

    #[test]
    fn a_page_shows_rungs_pools_and_instances() {
        let ladder = Ladder {
            rungs: vec![
                Rung {
                    rung: "built".to_owned(),
                    restored: 3,
                    restore_p50_ms: Some(81.26),
                    restore_p99_ms: Some(93.0),
                    ..Rung::default()
                },
                Rung {
                    rung: "pooled".to_owned(),
                    instances: 2,
                    held_bytes: Some(15 << 20),
                    ..Rung::default()
                },
            ],
            pools: vec![PoolSize {
                class: "nodejs, 128Mi, outbound".to_owned(),
                ready: 2,
                starting: 0,
                target: 2,
                why: "no start was wanted lately, and prewarm.size keeps 2".to_owned(),
                bytes_each: Some(7 << 20),
            }],
        };
        let instance = serde_json::from_value(json!({
            "name": "nodejs-1", "state": "Pooled", "rung": "pooled", "inFlight": 0, "slots": 0,
            "started": "2026-01-01T00:00:00Z", "memoryBytes": 7 << 20, "cpuSeconds": 0.1,
        }));
        let page = page(&ladder, &[instance.unwrap()]);
        let lines: Vec<String> =
            page.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let expected = [
            "RUNG INSTANCES HELD RESTORE P50 P99 OF THE LAST",
            "built 0 - 81.3 ms 93.0 ms 3",
            "pooled 2 15.0Mi - - 0",
            "",
            "POOL POOLED STARTING EACH WHY",
            "nodejs, 128Mi, outbound 2/2 0 7.0Mi no start was wanted lately, and prewarm.size keeps 2",
            "",
            "INSTANCE FUNCTION RUNG IN FLIGHT MEMORY CPU",
            "nodejs-1 - pooled 0/0 7.0Mi 0.1s",
        ];
        assert_eq!(lines, expected, "{page}");
    }
}
