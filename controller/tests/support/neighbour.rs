//! A function that minds its own business while another one beside it does not. It is asked at a steady rate, and each time is measured
//! from when the question was due, so that an answer that comes late does not hide the ones behind it.

use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::http::{Connection, Request};
use super::{Hearth, node_with};

/// Between two questions.
const PERIOD: Duration = Duration::from_millis(10);
/// How long each part of the comparison lasts at least: 300 questions, so that the 99th percentile is the third worst.
const PART: Duration = Duration::from_secs(3);
/// The bound that holds on any machine, whatever else runs on it: an unhindered answer takes a few milliseconds, and a neighbour that is
/// starved waits for seconds. The narrow bound (1.5 times, and 10 ms more) is a matter of figures: bench/neighbours.py measures it.
const BOUND: Duration = Duration::from_millis(1500);

/// A neighbour under steady load.
#[derive(Debug)]
pub(crate) struct Neighbour {
    answers: Arc<Mutex<Vec<Answer>>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    wait: (Sender<()>, Receiver<()>),
}

#[derive(Debug, Clone)]
struct Answer {
    took: Duration,
    /// What went wrong, if something did.
    wrong: Option<String>,
}

impl Neighbour {
    /// Deploys it and begins to ask.
    pub(crate) fn beside(hearth: &Hearth) -> Self {
        hearth.deploy(&node_with(
            "neighbour",
            "exports.handler = async () => 'hello';",
            "scale: { min: 1, max: 1 }\nconcurrency: { limit: 100 }",
        ));
        let answers = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = mpsc::channel();
        let (address, kept) = (hearth.gateway(), Arc::clone(&answers));
        let thread = std::thread::spawn(move || ask(address, &kept, &stopped));
        Self { answers, stop: Some(stop), thread: Some(thread), wait: mpsc::channel() }
    }

    /// Measures it alone, then while `misbehave` runs (again and again for at least as long), and asserts that it did not suffer.
    pub(crate) fn is_undisturbed_while(&self, mut misbehave: impl FnMut()) {
        self.take();
        self.pass(PART);
        let alone = self.take();
        let began = Instant::now();
        while began.elapsed() < PART {
            misbehave();
        }
        // What comes just after counts as well: an instance that is taken away, a new one that starts.
        self.pass(PART / 3);
        let beside = self.take();

        let wrong: Vec<_> =
            alone.iter().chain(&beside).filter_map(|answer| answer.wrong.as_deref()).collect();
        assert!(wrong.is_empty(), "the neighbour failed {} times: {:?}", wrong.len(), wrong.first());
        let (alone, beside) = (p99(&alone), p99(&beside));
        let test = std::thread::current();
        eprintln!("{}: neighbour's p99: alone {alone:?}, beside {beside:?}", test.name().unwrap_or("test"));
        assert!(beside <= alone + BOUND, "the neighbour's p99 went from {alone:?} to {beside:?}");
    }

    /// Lets time pass, in which only the load goes on.
    fn pass(&self, time: Duration) {
        let over = self.wait.1.recv_timeout(time);
        assert_eq!(over, Err(RecvTimeoutError::Timeout), "nobody sends here");
    }

    fn take(&self) -> Vec<Answer> {
        std::mem::take(&mut *self.answers.lock().expect("the asking thread does not panic"))
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn ask(address: SocketAddr, answers: &Mutex<Vec<Answer>>, stopped: &Receiver<()>) {
    let request = Request::get("/function/default/neighbour");
    let mut connection = None;
    let mut due = Instant::now();
    loop {
        due += PERIOD;
        let early = due.saturating_duration_since(Instant::now());
        if stopped.recv_timeout(early) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        let answer = connection
            .take()
            .map_or_else(|| Connection::open(address), Ok)
            .and_then(|mut open| open.exchange(&request).map(|answer| (open, answer)));
        let took = due.elapsed();
        let wrong = match answer {
            Ok((open, answer)) => {
                connection = Some(open);
                (answer.status != 200).then(|| format!("{} {}", answer.status, answer.text()))
            }
            Err(error) => Some(error.to_string()),
        };
        answers.lock().expect("the measuring thread does not panic").push(Answer { took, wrong });
    }
}

fn p99(answers: &[Answer]) -> Duration {
    let mut times: Vec<_> = answers.iter().map(|answer| answer.took).collect();
    times.sort_unstable();
    let rank = (times.len() * 99).div_ceil(100).max(1);
    times.get(rank - 1).copied().expect("a part lasts for many answers")
}
