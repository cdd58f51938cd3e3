//! `hearth record`: the calls of functions as a trace.

use std::fmt::Write;

use hearth_scaler::simulate::HEADER;
use jiff::Timestamp;

use super::args::Record;
use super::client::Server;
use super::error::Error;
use super::{logs, out};

/// A call as the server remembers it.
#[derive(Debug, Clone, PartialEq)]
struct Recorded {
    function: String,
    at: Timestamp,
    /// In seconds.
    duration: f64,
}

/// Runs the command.
pub(super) async fn run(arguments: Record) -> Result<(), Error> {
    let (server, namespace) = Server::open(&arguments.place).await?;
    let since = arguments.since.map(|since| format!("&sinceSeconds={}", since.as_secs())).unwrap_or_default();
    let mut calls = Vec::new();
    for name in &arguments.names {
        let path =
            format!("/apis/hearth.dev/v1/namespaces/{namespace}/functions/{name}/logs?calls=true{since}");
        logs::follow(&server, &path, |line| {
            // A call that never ran has no duration to replay.
            if let Some(call) = line.call.filter(|call| call.exec_us > 0)
                && let Ok(at) = line.time.parse()
            {
                let duration = std::time::Duration::from_micros(call.exec_us).as_secs_f64();
                calls.push(Recorded { function: name.clone(), at, duration });
            }
            Ok(())
        })
        .await?;
    }
    if calls.is_empty() {
        return Err(Error::fixable(
            "there is no call in the log",
            "call the function first, or record a longer while",
        ));
    }
    out::note(&format!("{} calls", calls.len()));
    out::text(&csv(calls))
}

fn csv(mut calls: Vec<Recorded>) -> String {
    calls.sort_by_key(|call| call.at);
    let first = calls.first().map(|call| call.at).unwrap_or_default();
    let mut text = format!("{HEADER}\n");
    for Recorded { function, at, duration } in &calls {
        let start = at.duration_since(first).as_secs_f64();
        let _infallible = writeln!(text, "{function},{start:.6},{duration:.6}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_trace() {
        let call = |function: &str, at: &str, duration| Recorded {
            function: function.to_owned(),
            at: at.parse().unwrap(),
            duration,
        };
        let text = csv(vec![
            call("b", "2026-01-01T00:00:01.25Z", 0.5),
            call("a", "2026-01-01T00:00:00Z", 0.000_125),
        ]);
        assert_eq!(text, "function,start,duration\na,0.000000,0.000125\nb,1.250000,0.500000\n");
    }
}
