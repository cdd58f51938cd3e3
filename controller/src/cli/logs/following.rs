//! A log that is followed. A cluster's controller is one of several, and in an upgrade it ends: its log goes on with the next one, which has of each
//! instance's lines those that the instance still holds.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::time::Duration;

use futures_util::{AsyncBufReadExt, TryStreamExt};
use hearth_function::InstanceId;
use http::{Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use tokio::time::{Instant, sleep};

use super::super::args::Logs;
use super::super::client::Server;
use super::super::error::Error;
use super::super::out;
use super::super::patience::{self, Why};
use crate::api::ports::LogLine;

/// Of the time before the log broke off, so much is asked for again: clocks differ, and lines may have been on the way.
const MARGIN: Duration = Duration::from_secs(10);
/// Between two logs of which the first broke off.
const PAUSE: Duration = Duration::from_millis(500);
/// A log that has lasted so long was one.
const STEADY: Duration = Duration::from_secs(5);
/// So many in a row that were none are enough: a controller that ends answers a while with logs that end at once.
const SHORT: u32 = 20;
/// So many instances are remembered, and beyond that those alone of which lines may come again.
const INSTANCES: usize = 4096;
/// Lines without a number are remembered while they may come again, and no more than so many: all are such where a controller is older than numbers.
const LINES: usize = 4096;

/// Calls `each` with every line of the log, with those of the next controller after those of one that ended.
///
/// # Errors
/// Those of the server and of `each`; that the log has ended, where nobody goes on with it.
pub(super) async fn run(
    server: &Server,
    namespace: &str,
    name: &str,
    arguments: &Logs,
    mut each: impl FnMut(LogLine) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut shown = Shown::new();
    let mut received = Instant::now();
    let mut short = 0;
    loop {
        // Made anew for each request: it may be long until one is answered.
        let path = || {
            let (tail, since) = if shown.again {
                (None, Some(received.elapsed() + MARGIN))
            } else {
                (arguments.tail, arguments.since)
            };
            super::path(namespace, name, tail, since, arguments)
        };
        let answer = open(server, name, path).await?;
        if !answer.status().is_success() {
            return Err(server.refusal(answer).await);
        }
        if shown.again {
            out::note(&format!("{name}: the log goes on"));
        }
        let began = Instant::now();
        shown.log = Log { began, from: received };
        let bytes = answer.into_body().into_data_stream().map_err(std::io::Error::other);
        let bytes = pin!(bytes.into_async_read());
        let mut lines = bytes.lines();
        // However it breaks off: by its end, or by the connection's.
        while let Ok(Some(line)) = lines.try_next().await {
            if line.is_empty() {
                continue;
            }
            let line = super::read(&line)?;
            let now = Instant::now();
            if shown.is_new(&line, now) {
                received = now;
                each(line)?;
            }
        }
        if !server.is_one_of_several() {
            return Err(ended(server, namespace, name).await);
        }
        short = if began.elapsed() < STEADY { short + 1 } else { 0 };
        if short == SHORT {
            return Err(super::super::client::broke_off("log"));
        }
        if !std::mem::replace(&mut shown.again, true) || short <= 1 {
            out::note(&format!(
                "{name}: the log broke off with its controller; the next one is asked for it"
            ));
        }
        sleep(PAUSE).await;
    }
}

/// The log as an answer, from a controller that is waited for.
async fn open(server: &Server, name: &str, path: impl Fn() -> String) -> Result<Response<Body>, Error> {
    let ask = |before| {
        if before == Some(Why::OtherToken) {
            server.look_again();
        }
        let request = Request::get(path()).body(Body::empty());
        async move {
            let request = request.map_err(|error| Error::failed(error.to_string()))?;
            let answer = server.send_raw(request).await?;
            let why = unsettled(server, &answer);
            Ok((answer, why))
        }
    };
    let waits = |why| async move {
        let whom = if why == Why::NobodyWorks { server.waits_for().await } else { None };
        out::note(&match whom {
            Some(whom) => format!("{name}: waiting for the controller: {whom}"),
            None => format!("{name}: waiting for a controller that answers"),
        });
    };
    patience::settled(ask, waits).await
}

/// Why the answer is none yet. Of a controller that has just ended the API server's proxy says 500 or 502 too.
fn unsettled(server: &Server, answer: &Response<Body>) -> Option<Why> {
    let status = answer.status();
    let broken = status.is_server_error().then_some(Why::NobodyWorks);
    server.unsettled(status).or(broken).filter(|_| server.is_one_of_several())
}

/// Why there is no more of the log of a server of its own.
async fn ended(server: &Server, namespace: &str, name: &str) -> Error {
    let deleted = matches!(server.functions(Some(namespace)).get_opt(name).await, Ok(None));
    let what = format!("the log of function {namespace}/{name} has ended");
    if deleted {
        return Error::failed(format!("{what}: the function was deleted"));
    }
    Error::fixable(
        format!("{what}: the server was stopped, or the connection to it was lost"),
        "`hearth version` says whether it is there; then try again",
    )
}

/// What was shown, so that no line is shown twice.
#[derive(Debug)]
struct Shown {
    /// Of each instance the number of the last line, and when it came.
    last: BTreeMap<InstanceId, (u64, Instant)>,
    /// With so many instances is looked for those that can be forgotten.
    full: usize,
    /// The last that have no number, with when they came: what Hearth says itself.
    others: VecDeque<(LogLine, Instant)>,
    log: Log,
    /// The log is one that goes on; before that nothing can come twice.
    again: bool,
}

/// The log that is read.
#[derive(Debug, Clone, Copy)]
struct Log {
    began: Instant,
    /// It was asked for from a margin before this.
    from: Instant,
}

impl Log {
    /// Whether what came `at` then may come again: at first in this log, later in the next one.
    fn may_come_again(self, at: Instant, now: Instant) -> bool {
        let from = if now < self.began + MARGIN { self.from } else { now };
        at + MARGIN >= from
    }
}

impl Shown {
    fn new() -> Self {
        let now = Instant::now();
        let log = Log { began: now, from: now };
        Self { last: BTreeMap::new(), full: INSTANCES, others: VecDeque::new(), log, again: false }
    }

    /// Whether the line, which comes now, was not shown yet; it counts as shown then.
    fn is_new(&mut self, line: &LogLine, now: Instant) -> bool {
        let log = self.log;
        if let Some(number) = line.sequence {
            let (last, at) = self.last.entry(line.instance.clone()).or_insert((0, now));
            let is_new = number > *last || !self.again;
            (*last, *at) = (number.max(*last), now);
            if self.last.len() > self.full {
                self.last.retain(|_, (_, at)| log.may_come_again(*at, now));
                // Not looked through again for each line while all of them are needed.
                self.full = INSTANCES.max(2 * self.last.len());
            }
            return is_new;
        }
        if self.again && self.others.iter().any(|(other, _)| other == line) {
            return false;
        }
        let is_over = |(_, at): &mut (LogLine, Instant)| !log.may_come_again(*at, now);
        while self.others.len() >= LINES || self.others.front_mut().is_some_and(is_over) {
            self.others.pop_front();
        }
        self.others.push_back((line.clone(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::response::IntoResponse as _;
    use axum::routing::get;
    use clap::Parser as _;
    use http::StatusCode;
    use serde_json::json;

    use super::super::super::args::{Cli, Command};
    use super::super::super::client::tests::{cluster_of, server_of};
    use super::*;

    fn line(instance: &str, number: Option<u64>, text: &str) -> LogLine {
        serde_json::from_value(json!({
            "time": "2026-01-01T00:00:00Z", "instance": instance, "revision": "n/a-00001", "stream": "stdout",
            "sequence": number, "text": text,
        }))
        .unwrap()
    }

    #[test]
    fn what_comes_again_is_shown_once_and_what_looks_alike_as_often_as_it_was_printed() {
        let (mut shown, now) = (Shown::new(), Instant::now());
        let mut new = |line: &LogLine| shown.is_new(line, now);
        let note = line("none", None, "lines were lost");
        for line in [line("i", Some(1), "x"), line("i", Some(2), "x"), note.clone(), note.clone()] {
            assert!(new(&line), "{line:?}");
        }
        shown.again = true;
        let mut new = |line: &LogLine| shown.is_new(line, now);
        assert!(!new(&line("i", Some(1), "x")) && !new(&line("i", Some(2), "x")) && !new(&note));
        assert!(new(&line("i", Some(3), "x")) && new(&line("j", Some(1), "x")));
        assert!(new(&line("none", None, "other lines were lost")));
    }

    #[test]
    fn what_cannot_come_again_is_forgotten_and_what_can_is_known_however_much_it_is() {
        let (mut shown, mut now) = (Shown::new(), Instant::now());
        // An instance for each call, for long.
        for call in 0..10 * INSTANCES {
            now += MARGIN / 1000;
            assert!(shown.is_new(&line(&format!("i-{call}"), Some(1), "x"), now));
        }
        assert!(shown.last.len() <= 2 * INSTANCES, "{}", shown.last.len());
        // A controller without numbers, and one that prints much.
        for text in 0..10 * LINES {
            now += MARGIN / 1000;
            assert!(shown.is_new(&line("i", None, &text.to_string()), now));
        }
        assert!(shown.others.len() <= 1001, "{}", shown.others.len());
        let same_moment = (0..2 * LINES).all(|text| shown.is_new(&line("j", None, &text.to_string()), now));
        assert!(same_moment && shown.others.len() == LINES, "{}", shown.others.len());

        // It breaks off, for longer than the margin, while more instances are known than are kept without need.
        let lines: Vec<_> = (0..2 * INSTANCES).map(|call| line(&format!("k-{call}"), Some(1), "x")).collect();
        assert!(lines.iter().all(|line| shown.is_new(line, now)));
        (shown.again, shown.log) = (true, Log { began: now + 6 * MARGIN, from: now });
        now += 6 * MARGIN;
        assert!((0..4 * INSTANCES).all(|call| shown.is_new(&line(&format!("l-{call}"), Some(1), "x"), now)));
        assert!(!lines.iter().any(|line| shown.is_new(line, now)), "it was shown");
    }

    /// Follows a log that a cluster answers with these, one after the other: what was shown, the error at the end, and what was asked for.
    async fn followed(answers: Vec<(u16, Vec<LogLine>)>) -> (Vec<String>, String, Vec<String>) {
        let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        let answer = move |uri: http::Uri| async move {
            noted.lock().unwrap().push(uri.query().unwrap_or_default().to_owned());
            let (code, lines) = answers.lock().unwrap().pop_front().unwrap_or((404, Vec::new()));
            let text: String =
                lines.iter().map(|line| format!("{}\n", serde_json::to_string(line).unwrap())).collect();
            (StatusCode::from_u16(code).unwrap(), text).into_response()
        };
        let server =
            server_of(cluster_of("/apis/hearth.dev/v1/namespaces/team/functions/a/logs", get(answer))).await;
        let Command::Logs(arguments) = Cli::parse_from(["hearth", "logs", "-f", "a", "--tail", "5"]).command
        else {
            panic!("not logs")
        };
        let mut shown = Vec::new();
        let error = run(&server, "team", "a", &arguments, |line| {
            shown.push(line.text);
            Ok(())
        });
        let error = error.await.unwrap_err().text();
        let asked = asked.lock().unwrap().clone();
        (shown, error, asked)
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_goes_on_with_the_next_controller_without_a_line_twice() {
        let one = line("i", Some(1), "one");
        let two = line("i", Some(2), "two");
        let (shown, error, asked) = followed(vec![
            (200, vec![one.clone()]),
            (500, vec![]),
            (503, vec![]),
            (200, vec![one, two]),
            (404, vec![]),
        ])
        .await;
        assert_eq!(shown, ["one", "two"]);
        assert!(error.contains("404"), "{error}");
        assert_eq!(asked[0], "follow=true&tail=5");
        // Reckoned from the last line at each request.
        let since = |seconds: u32| format!("follow=true&sinceSeconds={seconds}");
        assert_eq!(asked[1..], [since(10), since(11), since(11), since(10)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_nobody_goes_on_with_is_given_up() {
        let (_, error, _) = followed(vec![(503, vec![]); 100]).await;
        assert!(error.contains("503"), "{error}");
        let (shown, error, asked) = followed(vec![(200, vec![line("i", Some(1), "one")]); 100]).await;
        assert_eq!((shown.len(), asked.len()), (1, 20));
        assert!(error.contains("broke off"), "{error}");
    }
}
