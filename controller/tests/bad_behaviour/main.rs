//! Functions, sources and clients that behave badly, each with a real container: what the caller is told, what becomes of the instance,
//! that a neighbour function does not notice, and that nothing stays behind. Needs root.

#![expect(clippy::tests_outside_test_module, reason = "all of it is a test")]

mod clients;
mod handlers;
mod resources;
mod sources;
#[path = "../support/mod.rs"]
mod support;

use support::http::{Request, Response};
use support::neighbour::Neighbour;
use support::{Hearth, eventually};

/// The path of the function that behaves badly.
const BAD: &str = "/function/default/bad";

/// A Hearth with a neighbour under steady load and a function `bad`.
struct Scene {
    hearth: Hearth,
    neighbour: Neighbour,
    /// Processes of instances when only the neighbour runs.
    quiet: usize,
}

impl Scene {
    /// With the function that this manifest declares.
    fn with(manifest: &str) -> Self {
        let scene = Self::without_function(&[]);
        scene.hearth.deploy(manifest);
        scene
    }

    /// With these options of the controller, and no function yet.
    fn without_function(options: &[(&str, &str)]) -> Self {
        let hearth = Hearth::alone(options);
        let neighbour = Neighbour::beside(&hearth);
        let quiet = hearth.instance_processes();
        assert!(quiet > 0, "the neighbour runs in a container");
        Self { hearth, neighbour, quiet }
    }

    /// GET, which may be repeated on another instance.
    fn get(&self, query: &str) -> Response {
        self.hearth.get(&format!("{BAD}?{query}"))
    }

    /// POST, which may not.
    fn post(&self, query: &str) -> Response {
        self.hearth.send(&Request::post(&format!("{BAD}?{query}"), "{}"))
    }

    /// The instance that answers now.
    fn instance(&self) -> String {
        let answer = self.get("who");
        assert_eq!(answer.status, 200, "{answer:?}\n{}", self.hearth.own_log());
        answer.text()
    }

    /// Resident memory of the controller, in MiB.
    fn controller_memory(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.hearth.pid())).unwrap_or_default();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("a process has resident memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") / 1024
    }

    /// Takes the function away, asserts that its processes are gone, and ends everything.
    fn end(self) {
        self.hearth.delete("bad");
        let gone = eventually(|| (self.hearth.instance_processes() <= self.quiet).then_some(()));
        assert!(
            gone.is_some(),
            "{} processes are left, not {}",
            self.hearth.instance_processes(),
            self.quiet
        );
        drop(self.neighbour);
        self.hearth.stop();
    }
}

/// The answer is the gateway's own, with this status and code, and carries a request id.
fn assert_refused(answer: &Response, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{answer:?} {}", answer.text());
    assert!(
        answer.json()["message"].as_str().is_some_and(|message| !message.is_empty()),
        "{}",
        answer.text()
    );
    assert!(answer.json()["requestId"].as_str().is_some_and(|id| !id.is_empty()), "{}", answer.text());
}

/// The gateway's own answer contains this, in its message or among the last lines that were printed.
fn assert_says(answer: &Response, text: &str) {
    assert!(answer.text().contains(text), "not {text:?}: {}", answer.text());
}
