//! How fast what is printed is read.
//!
//! Reading is what makes room in a pipe, so whoever prints faster waits. Without this, one function that prints without end keeps two
//! cores busy, with writing and with reading, and its neighbours on the machine pay for it.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes a second, of an instance with all its pipes: 32 MiB. An interpreter prints some five times as much when nothing stops it.
const BYTES_PER_SECOND: u32 = 32 << 20;

/// So much of it may come at once after a rest: 8 MiB of what is read.
const BURST: Duration = Duration::from_millis(250);

/// The pace of one instance.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: u32,
    /// When everything that was read so far is paid for.
    paid: Option<Instant>,
}

impl Default for Pace {
    /// That of what is read.
    fn default() -> Self {
        Self::of(BYTES_PER_SECOND)
    }
}

impl Pace {
    /// So fast, and a quarter of a second's worth at once.
    pub(super) const fn of(bytes_per_second: u32) -> Self {
        Self { bytes_per_second, paid: None }
    }

    /// Counts bytes that were moved; how long nothing more is now.
    pub(super) fn read(&mut self, bytes: usize, now: Instant) -> Duration {
        let cost = Duration::from_secs(1) * u32::try_from(bytes).unwrap_or(u32::MAX) / self.bytes_per_second;
        let paid = self.paid.map_or(now, |paid| paid.max(now)) + cost;
        self.paid = Some(paid);
        paid.saturating_duration_since(now).saturating_sub(BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_read_at_once_and_a_flood_at_its_pace() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert_eq!(pace.read(8 << 20, start), Duration::ZERO, "a quarter of a second's worth");
        let mut now = start;
        for _ in 0..(64 << 20) / (64 << 10) {
            now += pace.read(64 << 10, now);
        }
        assert_eq!((now - start).as_millis(), 2000, "twice as much as fits into a second");
        let rested = now + Duration::from_secs(3600);
        assert_eq!(pace.read(8 << 20, rested), Duration::ZERO);
        assert!(pace.read(1 << 20, rested) > Duration::ZERO, "no rest is worth more than one burst");
    }
}
