//! How many further instances can still help with a backlog.
//!
//! An instance that comes up when nobody waits any more was started for nothing. So each further one is asked: when it is up, will calls
//! still wait, after all that the instances ahead of it have finished by then? Starts take turns: `parallel` at a time.
//!
//! Worked example (a test below): 200 calls wait, nothing runs, limit 10, service 100 ms, start 60 ms, two starts at a time. Instances come
//! up in pairs at 60, 120, 180… ms. When the fifth pair would be up, at 300 ms, the four before it have finished 120 calls and hold the
//! other 80: eight instances do what twenty would, and sooner than twenty could be started.

use std::time::Duration;

/// What is known when a backlog is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Calls that run or wait.
    pub calls: u32,
    /// Instances that serve.
    pub ready: u32,
    /// Instances on their way.
    pub starting: u32,
    /// Calls an instance runs at once; at least 1.
    pub limit: u32,
    /// Mean time a call takes; `None`: not known, and then no call is expected to end.
    pub service: Option<Duration>,
    /// Time a start takes; `None`: not known, and then no call is expected to end before it.
    pub start: Option<Duration>,
    /// Starts that run at the same time; at least 1.
    pub parallel: u32,
}

/// What is expected of a backlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forecast {
    /// Instances, with those there and on their way, that all have something to do when they are up.
    pub useful: u32,
    /// Instances that would run all calls at once: never fewer than are useful, if more than are there.
    pub ceiling: u32,
    /// Time until nobody waits any more, with `useful` instances. `None`: not known.
    pub drained_in: Option<Duration>,
}

impl Backlog {
    /// Looks ahead. `useful` grows with `calls` and is never above `ceiling` unless that many are there already.
    #[must_use]
    pub fn forecast(&self) -> Forecast {
        let limit = self.limit.max(1);
        let ceiling = self.calls.div_ceil(limit);
        let there = self.ready.saturating_add(self.starting);
        let (Some(service), Some(start)) = (self.service, self.start) else {
            return Forecast { useful: there.max(ceiling), ceiling, drained_in: None };
        };
        // A call takes some time, if only what the clock can tell.
        let service = service.as_secs_f64().max(1e-6);
        let per_second = f64::from(limit) / service;
        let calls = f64::from(self.calls);

        let mut ahead =
            Ahead { up: self.ready, rate: f64::from(self.ready) * per_second, done: 0.0, at: 0.0 };
        let mut useful = self.ready;
        let mut up_next = 0;
        // Each turn of `parallel` starts comes up together; within a turn the earlier ones' slots count for the later ones.
        while useful < there.max(ceiling) {
            if up_next % self.parallel.max(1) == 0 {
                ahead.wait(start.as_secs_f64());
            }
            let waiting = calls - ahead.done - f64::from(ahead.up) * f64::from(limit);
            if waiting <= 0.0 && useful >= there {
                break;
            }
            ahead.up += 1;
            ahead.rate += per_second;
            useful += 1;
            up_next += 1;
        }
        let waiting = (calls - ahead.done - f64::from(ahead.up) * f64::from(limit)).max(0.0);
        let drained_in =
            (ahead.rate > 0.0).then(|| Duration::try_from_secs_f64(ahead.at + waiting / ahead.rate).ok());
        Forecast { useful: useful.max(there), ceiling, drained_in: drained_in.flatten() }
    }
}

/// The instances ahead of the one that is asked about.
struct Ahead {
    up: u32,
    /// Calls per second they finish while calls wait for them.
    rate: f64,
    /// Calls they have finished.
    done: f64,
    /// Seconds from now.
    at: f64,
}

impl Ahead {
    fn wait(&mut self, seconds: f64) {
        self.done += self.rate * seconds;
        self.at += seconds;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BURST: Backlog = Backlog {
        calls: 200,
        ready: 0,
        starting: 0,
        limit: 10,
        service: Some(Duration::from_millis(100)),
        start: Some(Duration::from_millis(60)),
        parallel: 2,
    };

    #[test]
    fn the_worked_example() {
        let forecast = BURST.forecast();
        assert_eq!((forecast.useful, forecast.ceiling), (8, 20));
        assert_eq!(forecast.drained_in, Some(Duration::from_millis(300)));
    }

    #[test]
    fn slow_calls_are_all_worth_an_instance() {
        assert_eq!(Backlog { service: Some(Duration::from_secs(30)), ..BURST }.forecast().useful, 20);
        assert_eq!(Backlog { service: None, ..BURST }.forecast().useful, 20);
    }

    #[test]
    fn what_is_there_finishes_quick_calls_before_another_is_up() {
        let quick = Backlog { calls: 50, ready: 1, service: Some(Duration::from_millis(1)), ..BURST };
        assert_eq!(quick.forecast().useful, 1);
        let slow = Backlog { service: Some(Duration::from_secs(1)), ..quick };
        assert_eq!(slow.forecast().useful, 5);
    }

    #[test]
    fn instances_on_their_way_count() {
        assert_eq!(Backlog { calls: 30, starting: 3, ..BURST }.forecast().useful, 3);
        assert_eq!(Backlog { calls: 30, starting: 5, ..BURST }.forecast().useful, 5);
    }

    proptest! {
        #[test]
        fn useful_grows_with_the_calls_and_keeps_below_the_ceiling(
            calls in 0u32..2000, more in 0u32..200, ready in 0u32..30, starting in 0u32..30, limit in 1u32..50,
            service in proptest::option::of(0u64..5000), start in proptest::option::of(0u64..3000), parallel in 1u32..9,
        ) {
            let backlog = Backlog {
                calls, ready, starting, limit, parallel,
                service: service.map(Duration::from_millis), start: start.map(Duration::from_millis),
            };
            let forecast = backlog.forecast();
            prop_assert!(forecast.useful >= ready + starting);
            prop_assert!(forecast.useful <= forecast.ceiling.max(ready + starting));
            let more = Backlog { calls: calls + more, ..backlog };
            prop_assert!(more.forecast().useful >= forecast.useful);
        }
    }
}
