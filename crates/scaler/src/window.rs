//! What happened lately, in buckets: a ring that forgets as time goes on.

use std::time::{Duration, Instant};

/// Buckets in a window: with the default window of 60 s one is a second, as in Knative's autoscaler.
pub(crate) const BUCKETS: u32 = 60;

/// The last [`BUCKETS`] stretches of time.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    bucket: Duration,
    began: Instant,
    /// Number of the newest bucket since `began`.
    newest: u64,
    /// When the newest thing happened.
    now: Instant,
    /// None until there is something to remember: most functions are idle.
    buckets: Vec<Bucket>,
}

/// The load over some time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Average {
    /// Running and waiting calls.
    pub calls: f64,
    /// Requests that came, per second.
    pub per_second: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// Integral of running and waiting calls over the bucket, in call-seconds.
    call_seconds: f64,
    /// Requests that came.
    arrived: f64,
    /// Calls that ended.
    ended: u64,
    /// Sum of their service times.
    service: Duration,
}

impl Window {
    /// An empty window of this length that begins now.
    pub(crate) fn new(length: Duration, now: Instant) -> Self {
        let bucket = (length / BUCKETS).max(Duration::from_millis(1));
        Self { bucket, began: now, newest: 0, now, buckets: Vec::new() }
    }

    /// Lets time go on to `now`. Time does not go back: an earlier `now` is the latest that was seen.
    pub(crate) fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        let number = self.number(self.now);
        let passed = number - self.newest;
        if passed > u64::from(BUCKETS) {
            self.buckets = Vec::new();
        } else if !self.buckets.is_empty() {
            for step in 1..=passed {
                *self.at(self.newest + step) = Bucket::default();
            }
        }
        self.newest = number;
    }

    /// Notes an average of `calls`, and `arrived` requests, over the `time` up to now: spread over the buckets it covers, so that it makes no
    /// difference when in a bucket a report comes.
    pub(crate) fn note(&mut self, calls: f64, arrived: u64, time: Duration) {
        let calls = if calls.is_finite() { calls.max(0.0) } else { 0.0 };
        let from = self.now.checked_sub(time).map_or(self.began, |from| from.max(self.began));
        let covered = self.now.saturating_duration_since(from).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a count of requests is far below 2^52")]
        let arrived = arrived as f64;
        if covered <= 0.0 {
            self.at(self.newest).arrived += arrived;
            return;
        }
        let oldest = self.newest.saturating_sub(u64::from(BUCKETS) - 1);
        for number in self.number(from).max(oldest)..=self.newest {
            let overlap =
                self.end(number).min(self.now).saturating_duration_since(self.start(number).max(from));
            let bucket = self.at(number);
            bucket.call_seconds += calls * overlap.as_secs_f64();
            bucket.arrived += arrived * overlap.as_secs_f64() / covered;
        }
    }

    /// Notes `ended` calls that took `service` together.
    pub(crate) fn note_ended(&mut self, ended: u64, service: Duration) {
        let bucket = self.at(self.newest);
        bucket.ended = bucket.ended.saturating_add(ended);
        bucket.service = bucket.service.saturating_add(service);
    }

    /// Averages over the newest `buckets`, the one that has begun with them. Time before the window began counts as empty.
    pub(crate) fn average(&self, buckets: u32) -> Average {
        let buckets = buckets.clamp(1, BUCKETS);
        let (mut call_seconds, mut arrived) = (0.0, 0.0);
        for number in (0..u64::from(buckets)).filter_map(|back| self.newest.checked_sub(back)) {
            let Some(bucket) = self.buckets.get(self.index(number)) else { continue };
            call_seconds += bucket.call_seconds;
            arrived += bucket.arrived;
        }
        let in_newest = self.now.saturating_duration_since(self.start(self.newest));
        let over = (self.bucket * (buckets - 1) + in_newest).as_secs_f64();
        if over <= 0.0 {
            return Average::default();
        }
        Average { calls: call_seconds / over, per_second: arrived / over }
    }

    /// Mean service time of the calls that ended in the window.
    pub(crate) fn mean_service(&self) -> Option<Duration> {
        let ended: u64 = self.buckets.iter().map(|bucket| bucket.ended).sum();
        let service: f64 = self.buckets.iter().map(|bucket| bucket.service.as_secs_f64()).sum();
        #[expect(clippy::cast_precision_loss, reason = "a count of calls is far below 2^52")]
        let mean = service / ended as f64;
        (ended > 0).then(|| Duration::try_from_secs_f64(mean).ok()).flatten()
    }

    fn number(&self, at: Instant) -> u64 {
        let passed = at.saturating_duration_since(self.began).as_nanos() / self.bucket.as_nanos();
        u64::try_from(passed).unwrap_or(u64::MAX)
    }

    fn start(&self, number: u64) -> Instant {
        let nanos = self.bucket.as_nanos().saturating_mul(u128::from(number));
        self.began + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn end(&self, number: u64) -> Instant {
        self.start(number) + self.bucket
    }

    fn index(&self, number: u64) -> usize {
        usize::try_from(number % u64::from(BUCKETS)).unwrap_or(0)
    }

    fn at(&mut self, number: u64) -> &mut Bucket {
        let index = self.index(number);
        if self.buckets.is_empty() {
            self.buckets = vec![Bucket::default(); BUCKETS as usize];
        }
        &mut self.buckets[index]
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an arbitrary beginning: no test waits")]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn window() -> (Window, Instant) {
        let now = Instant::now();
        (Window::new(60 * SECOND, now), now)
    }

    #[test]
    fn a_burst_is_no_load_until_it_has_lasted() {
        let (mut window, start) = window();
        window.advance(start + 60 * SECOND);
        window.note(200.0, 0, SECOND / 2);
        // 100 call-seconds over the five buckets before this one, which is as yet empty.
        assert!((window.average(6).calls - 20.0).abs() < 1e-6, "{}", window.average(6).calls);
        for second in 61..=66 {
            window.advance(start + second * SECOND);
            window.note(200.0, 0, SECOND);
        }
        assert!((window.average(6).calls - 200.0).abs() < 1e-6, "{}", window.average(6).calls);
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let (mut window, start) = window();
        window.note(0.0, 118, Duration::ZERO);
        window.note_ended(2, 3 * SECOND);
        window.advance(start + 59 * SECOND);
        assert_eq!((window.average(60).per_second, window.mean_service()), (2.0, Some(3 * SECOND / 2)));
        window.advance(start + 60 * SECOND);
        assert_eq!((window.average(60).per_second, window.mean_service()), (0.0, None));
        window.note(0.0, 3, Duration::ZERO);
        window.advance(start + 3600 * SECOND);
        assert_eq!(window.average(60), Average::default());
    }

    #[test]
    fn a_report_over_a_long_time_is_spread_over_it() {
        let (mut window, start) = window();
        window.advance(start + 600 * SECOND);
        window.note(2.0, 0, 600 * SECOND);
        assert!((window.average(6).calls - 2.0).abs() < 1e-6, "{}", window.average(6).calls);
    }

    #[test]
    fn time_does_not_go_back() {
        let (mut window, start) = window();
        window.advance(start + 10 * SECOND);
        window.note(0.0, 4, Duration::ZERO);
        window.advance(start);
        assert!(window.average(1).calls == 0.0 && window.average(2).per_second > 0.0);
        window.note_ended(1, SECOND);
        assert_eq!(window.mean_service(), Some(SECOND));
    }
}
