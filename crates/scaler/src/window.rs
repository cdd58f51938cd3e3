//! What happened lately, in buckets: a ring that forgets as time goes on.

use std::time::{Duration, Instant};

/// Buckets in a window: with the default window of 60 s one is a second, as in Knative's autoscaler.
pub(crate) const BUCKETS: u32 = 60;

/// Buckets of the short window: a tenth, Knative's panic window.
const SHORT: u32 = 6;

/// The last [`BUCKETS`] stretches of time.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    bucket: Duration,
    began: Instant,
    /// Number of the newest bucket since `began`.
    newest: u64,
    /// When the newest thing happened.
    now: Instant,
    buckets: Box<[Bucket]>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// Integral of running and waiting calls over the bucket, in call-seconds.
    call_seconds: f64,
    /// Highest need.
    need: u32,
    /// Calls that ended.
    ended: u64,
    /// Sum of their service times.
    service: Duration,
}

impl Window {
    /// An empty window of this length that begins now.
    pub(crate) fn new(length: Duration, now: Instant) -> Self {
        let buckets = vec![Bucket::default(); BUCKETS as usize].into_boxed_slice();
        let bucket = (length / BUCKETS).max(Duration::from_millis(1));
        Self { bucket, began: now, newest: 0, now, buckets }
    }

    /// Lets time go on to `now`. Time does not go back: an earlier `now` is the latest that was seen.
    pub(crate) fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        let number = self.number(self.now);
        let passed = number - self.newest;
        for step in 1..=passed.min(u64::from(BUCKETS)) {
            *self.at(self.newest + step) = Bucket::default();
        }
        if passed > u64::from(BUCKETS) {
            self.buckets.fill(Bucket::default());
        }
        self.newest = number;
    }

    /// Notes an average of `calls` over the `time` up to now.
    pub(crate) fn note_calls(&mut self, calls: f64, time: Duration) {
        if !(calls.is_finite() && calls > 0.0) {
            return;
        }
        let from = self.now.checked_sub(time).map_or(self.began, |from| from.max(self.began));
        let oldest = self.newest.saturating_sub(u64::from(BUCKETS) - 1);
        for number in self.number(from).max(oldest)..=self.newest {
            let overlap =
                self.end(number).min(self.now).saturating_duration_since(self.start(number).max(from));
            self.at(number).call_seconds += calls * overlap.as_secs_f64();
        }
    }

    /// Notes `ended` calls that took `service` together.
    pub(crate) fn note_ended(&mut self, ended: u64, service: Duration) {
        let bucket = self.at(self.newest);
        bucket.ended = bucket.ended.saturating_add(ended);
        bucket.service = bucket.service.saturating_add(service);
    }

    /// Notes what the calls of this moment ask for.
    pub(crate) fn note_need(&mut self, need: u32) {
        let bucket = self.at(self.newest);
        bucket.need = bucket.need.max(need);
    }

    /// Highest need of the window.
    pub(crate) fn highest_need(&self) -> u32 {
        self.buckets.iter().map(|bucket| bucket.need).max().unwrap_or(0)
    }

    /// Average of running and waiting calls over the short window.
    pub(crate) fn short_average(&self) -> f64 {
        let sum: f64 = (0..u64::from(SHORT))
            .filter_map(|back| self.newest.checked_sub(back))
            .map(|number| self.buckets[self.index(number)].call_seconds)
            .sum();
        let in_newest = self.now.saturating_duration_since(self.start(self.newest));
        sum / (self.bucket * (SHORT - 1) + in_newest).as_secs_f64()
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
        window.note_calls(200.0, SECOND / 2);
        // 100 call-seconds over the five buckets before this one, which is as yet empty.
        assert!((window.short_average() - 20.0).abs() < 1e-6, "{}", window.short_average());
        for second in 61..=66 {
            window.advance(start + second * SECOND);
            window.note_calls(200.0, SECOND);
        }
        assert!((window.short_average() - 200.0).abs() < 1e-6, "{}", window.short_average());
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let (mut window, start) = window();
        window.note_need(7);
        window.note_ended(2, 3 * SECOND);
        window.advance(start + 59 * SECOND);
        assert_eq!((window.highest_need(), window.mean_service()), (7, Some(3 * SECOND / 2)));
        window.advance(start + 60 * SECOND);
        assert_eq!((window.highest_need(), window.mean_service()), (0, None));
        window.note_need(3);
        window.advance(start + 3600 * SECOND);
        assert_eq!(window.highest_need(), 0);
    }

    #[test]
    fn a_report_over_a_long_time_is_spread_over_it() {
        let (mut window, start) = window();
        window.advance(start + 600 * SECOND);
        window.note_calls(2.0, 600 * SECOND);
        assert!((window.short_average() - 2.0).abs() < 1e-6, "{}", window.short_average());
    }

    #[test]
    fn time_does_not_go_back() {
        let (mut window, start) = window();
        window.advance(start + 10 * SECOND);
        window.note_need(4);
        window.advance(start);
        assert_eq!(window.highest_need(), 4);
    }
}
