//! The last decisions about a Revision, and what happened beside them, as `hearth describe` shows them.
//!
//! A burst is answered in steps: each time that an instance is started, or calls come, it is decided again. One line for the whole of it says
//! more than one for each: how many instances it ended with, in how many steps, and why.

use std::collections::VecDeque;
use std::time::Duration;

use hearth_scaler::{Decision, Reason, span};
use jiff::Timestamp;
use tokio::time::Instant;

use super::snapshot::{self, About, Decided};

/// Decisions that follow each other within this are one line.
const GATHER: Duration = Duration::from_secs(2);

/// A line covers at most this: a ramp of minutes is several.
const COVERS: Duration = Duration::from_secs(10);

/// The record: bounded as [`snapshot::KEPT`] says.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    lines: VecDeque<Decided>,
    /// What the last line is made of, while it can grow.
    run: Option<Run>,
}

/// Decisions in a row.
#[derive(Debug)]
struct Run {
    /// Instances there were before, and those that there should be after.
    from: u32,
    to: u32,
    /// The fewest and the most there were or should have been between.
    range: (u32, u32),
    steps: u32,
    began: Instant,
    /// When the last step was decided, or decided again.
    last: Instant,
    /// The widest of its steps to more instances, and of those to fewer. The one says nothing about the other.
    outward: Option<Widest>,
    inward: Option<Widest>,
    /// The trial of a new Revision is no part of a burst.
    alone: bool,
}

/// How far a step went, and what led to it.
#[derive(Debug)]
struct Widest {
    by: u32,
    why: String,
}

impl Widest {
    /// Of two the wider; of two that are as wide the later.
    fn of(one: Option<Self>, later: Option<Self>) -> Option<Self> {
        match (one, later) {
            (Some(one), Some(later)) => Some(if later.by >= one.by { later } else { one }),
            (one, later) => one.or(later),
        }
    }
}

impl Decisions {
    /// Notes a decision that starts or puts out instances.
    pub(super) fn note(&mut self, decision: &Decision, now: Instant, time: Timestamp) {
        let step = Run::new(decision, now);
        match &mut self.run {
            // While starts wait for their turn, the same is decided again and again.
            Some(run) if run.repeats(&step) => run.last = now,
            Some(run) if run.takes(&step) => {
                run.add(step);
                let line = Decided { time, about: About::Scaled, text: run.text() };
                if let Some(last) = self.lines.back_mut() {
                    *last = line;
                }
            }
            _ => {
                let line = Decided { time, about: About::Scaled, text: step.text() };
                snapshot::keep(&mut self.lines, line);
                self.run = Some(step);
            }
        }
    }

    /// Notes something that happened beside the decisions.
    pub(super) fn tell(&mut self, about: About, text: String, time: Timestamp) {
        snapshot::keep(&mut self.lines, Decided { time, about, text });
        self.run = None;
    }

    /// All that is kept, newest last; each with the time of its last step.
    pub(super) fn lines(&self) -> &VecDeque<Decided> {
        &self.lines
    }
}

impl Run {
    fn new(decision: &Decision, now: Instant) -> Self {
        let (from, to) = (decision.current, decision.desired);
        let step = Some(Widest { by: to.abs_diff(from), why: decision.why() });
        let (outward, inward) = if to < from { (None, step) } else { (step, None) };
        Self {
            from,
            to,
            range: (from.min(to), from.max(to)),
            steps: 1,
            began: now,
            last: now,
            outward,
            inward,
            alone: matches!(decision.reason, Reason::Initial { .. }),
        }
    }

    fn follows(&self, step: &Self) -> bool {
        step.began.saturating_duration_since(self.last) <= GATHER
    }

    fn repeats(&self, step: &Self) -> bool {
        self.to == step.to && self.follows(step)
    }

    fn takes(&self, step: &Self) -> bool {
        let covers = step.began.saturating_duration_since(self.began) <= COVERS;
        !self.alone && covers && self.follows(step)
    }

    fn add(&mut self, step: Self) {
        (self.to, self.last) = (step.to, step.last);
        self.range = (self.range.0.min(step.range.0), self.range.1.max(step.range.1));
        self.steps += 1;
        self.outward = Widest::of(self.outward.take(), step.outward);
        self.inward = Widest::of(self.inward.take(), step.inward);
    }

    /// What led the way that it went in the end; of one that came back to where it was, what led it out.
    fn why(&self) -> &str {
        let (first, second) = match (&self.outward, &self.inward) {
            (outward, inward) if self.to < self.from => (inward, outward),
            ways => ways,
        };
        first.as_ref().or(second.as_ref()).map_or("", |widest| &widest.why)
    }

    fn text(&self) -> String {
        let Self { from, to, range: (least, most), steps, .. } = self;
        let mut text = span(*from, *to);
        if most > from.max(to) {
            text += &format!(", {most} at most between");
        }
        if least < from.min(to) {
            text += &format!(", {least} at least between");
        }
        if *steps > 1 {
            let over = self.last.saturating_duration_since(self.began).as_secs_f64();
            text += &format!(", in {steps} steps over {over:.1} s");
        }
        format!("{text}: {}", self.why())
    }
}

#[cfg(test)]
mod tests {
    use hearth_scaler::Bound;

    use super::*;

    fn decision(current: u32, desired: u32, waiting: u32) -> Decision {
        let reason = if desired > current {
            Reason::Backlog {
                waiting,
                in_flight: 0,
                limit: 10,
                service: Some(Duration::from_millis(120)),
                start: Some(Duration::from_millis(90)),
            }
        } else {
            Reason::Quiet { need: desired, window: Duration::from_secs(60) }
        };
        let bound = (desired == 12).then_some(Bound::Max(12));
        Decision {
            current,
            desired,
            need: desired,
            panic: false,
            drained_in: None,
            reason,
            bound,
            recheck: None,
        }
    }

    /// Notes decisions at these milliseconds, and gives the lines that come of it.
    fn told(steps: &[(u64, u32, u32, u32)]) -> Vec<String> {
        let (begin, mut decisions) = (Instant::now(), Decisions::default());
        for &(millis, current, desired, waiting) in steps {
            let time = Timestamp::from_millisecond(i64::try_from(millis).unwrap()).unwrap();
            decisions.note(&decision(current, desired, waiting), begin + Duration::from_millis(millis), time);
        }
        decisions.lines().iter().map(|line| line.text.clone()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_steps_of_a_burst_are_one_line() {
        let burst = [(0, 0, 1, 1), (60, 1, 3, 30), (140, 3, 6, 40), (200, 6, 9, 38), (300, 9, 12, 20)];
        assert_eq!(
            told(&burst),
            [
                "from 0 to 12 instances, in 5 steps over 0.3 s: 20 calls wait, an instance runs 10 at once, a call takes 120 ms and a start 90 ms (scale.max allows 12)"
            ]
        );
        // The widest step says why.
        assert!(
            told(&burst[..4])[0].starts_with("from 0 to 9 instances, in 4 steps over 0.2 s: 38 calls wait,")
        );
        let wide = [(0, 0, 8, 80), (60, 8, 9, 3)];
        assert!(told(&wide)[0].starts_with("from 0 to 9 instances, in 2 steps over 0.1 s: 80 calls wait,"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_decided_again_while_starts_take_turns_is_no_step() {
        let again = [(0, 0, 3, 30), (50, 0, 3, 31), (100, 1, 3, 25), (1900, 2, 3, 10), (3800, 2, 3, 11)];
        assert_eq!(told(&again).len(), 1);
        assert!(told(&again)[0].starts_with("from 0 to 3 instances: 30 calls wait,"));
        // An instance that ended later is made again: that is news.
        assert_eq!(told(&[(0, 0, 3, 30), (5000, 2, 3, 11)]).len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_that_turns_is_one_line_that_says_how_far_it_went() {
        let turns = [(0, 0, 8, 80), (100, 8, 2, 0), (200, 2, 4, 9)];
        let lines = told(&turns);
        assert_eq!(lines.len(), 1, "{lines:?}");
        let begins = "from 0 to 4 instances, 8 at most between, in 3 steps over 0.2 s: 80 calls wait,";
        assert!(lines[0].starts_with(begins), "{lines:?}");
        let dip = told(&[(0, 5, 1, 0), (100, 1, 6, 60)]);
        assert!(
            dip[0].starts_with("from 5 to 6 instances, 1 at least between, in 2 steps over 0.1 s: 60"),
            "{dip:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_that_turns_says_what_led_the_way_that_it_went_in_the_end() {
        // The widest step of all was back in.
        let out = told(&[(0, 0, 3, 30), (60, 3, 9, 60), (200, 9, 2, 0)]);
        let begins = "from 0 to 2 instances, 9 at most between, in 3 steps over 0.2 s: 60 calls wait,";
        assert!(out.len() == 1 && out[0].starts_with(begins), "{out:?}");
        let back = told(&[(0, 3, 9, 60), (100, 9, 3, 0)]);
        let begins = "still 3 instances, 9 at most between, in 2 steps over 0.1 s: 60 calls wait,";
        assert!(back.len() == 1 && back[0].starts_with(begins), "{back:?}");
        // And here out.
        let fewer = told(&[(0, 9, 14, 80), (900, 14, 11, 0), (1800, 11, 8, 0)]);
        let begins =
            "from 9 to 8 instances, 14 at most between, in 3 steps over 1.8 s: no more than 8 instances";
        assert!(fewer.len() == 1 && fewer[0].starts_with(begins), "{fewer:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_or_a_long_ramp_begin_a_line() {
        assert_eq!(told(&[(0, 0, 3, 9), (2100, 3, 4, 9)]).len(), 2);
        let fewer = [(0, 9, 7, 0), (900, 7, 5, 0), (1800, 5, 4, 0)];
        assert_eq!(
            told(&fewer),
            [
                "from 9 to 4 instances, in 3 steps over 1.8 s: no more than 5 instances were needed in the last 60 s"
            ]
        );
        let ramp: Vec<_> = (0..30).map(|step| (u64::from(step) * 1000, step, step + 1, 9)).collect();
        assert_eq!(told(&ramp).len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn the_trial_of_a_new_revision_is_a_line_of_its_own() {
        let (now, mut decisions) = (Instant::now(), Decisions::default());
        let trial = Decision { reason: Reason::Initial { initial: 1 }, ..decision(0, 1, 0) };
        decisions.note(&trial, now, Timestamp::UNIX_EPOCH);
        decisions.note(&decision(1, 3, 30), now, Timestamp::UNIX_EPOCH);
        let lines: Vec<_> = decisions.lines().iter().map(|line| line.text.as_str()).collect();
        assert_eq!(lines[0], "from 0 to 1 instance: a new revision is tried with 1 instance");
        assert!(
            lines.len() == 2 && lines[1].starts_with("from 1 to 3 instances: 30 calls wait"),
            "{lines:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_record_is_bounded_and_an_event_ends_a_line() {
        let (begin, mut decisions) = (Instant::now(), Decisions::default());
        for second in 0..200_u32 {
            let at = begin + Duration::from_secs(5) * second;
            decisions.note(&decision(second, second + 1, 1), at, Timestamp::UNIX_EPOCH);
        }
        assert_eq!(decisions.lines().len(), snapshot::KEPT);
        let now = begin + Duration::from_secs(1000);
        decisions.note(&decision(0, 1, 1), now, Timestamp::UNIX_EPOCH);
        decisions.tell(About::Killed, "hello-x killed".to_owned(), Timestamp::UNIX_EPOCH);
        decisions.note(&decision(1, 2, 1), now, Timestamp::UNIX_EPOCH);
        let last: Vec<_> = decisions.lines().iter().rev().take(3).map(|line| line.text.as_str()).collect();
        assert!(
            last[0].starts_with("from 1 to 2 instances:")
                && last[1] == "hello-x killed"
                && last[2].starts_with("from 0 to 1 instance:")
        );
        assert_eq!(decisions.lines().len(), snapshot::KEPT);
    }
}
