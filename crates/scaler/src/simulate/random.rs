//! Random numbers from a seed: the same seed gives the same simulation on every machine.

use std::time::Duration;

/// `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA '14): small, quick, and good enough for waiting
/// times.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// What follows from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Another, whose numbers have nothing to do with this one's.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to, not including, 1.
    pub fn unit(&mut self) -> f64 {
        let bits = u32::try_from(self.next() >> 32).unwrap_or(0);
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }

    /// From `low` to `high`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// A time without memory, with this mean.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    /// From the normal distribution of mean 0 and deviation 1.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// A time that is mostly near its median and sometimes a few times as long: log-normal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Half of the times are shorter.
    pub median: Duration,
    /// Deviation of the logarithm: 0 is always the median; with 0.5 one in a hundred takes 3.2 times as long.
    pub sigma: f64,
}

impl Spread {
    /// One such time.
    pub fn draw(&self, random: &mut Random) -> Duration {
        let seconds = self.median.as_secs_f64() * (self.sigma * random.normal()).exp();
        Duration::try_from_secs_f64(seconds).unwrap_or(self.median)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moments_are_right_and_the_seed_decides() {
        let mut random = Random::new(7);
        let count = 20_000;
        let mut mean = |draw: &mut dyn FnMut(&mut Random) -> f64| {
            (0..count).map(|_| draw(&mut random)).sum::<f64>() / f64::from(count)
        };
        assert!((mean(&mut Random::unit) - 0.5).abs() < 0.01);
        assert!((mean(&mut |random| random.exponential(3.0)) - 3.0).abs() < 0.1);
        assert!(mean(&mut Random::normal).abs() < 0.03);
        assert!((mean(&mut |random| random.normal().powi(2)) - 1.0).abs() < 0.05);
        let spread = Spread { median: Duration::from_millis(100), sigma: 0.5 };
        // Mean of a log-normal: median × e^(σ²/2).
        assert!((mean(&mut |random| spread.draw(random).as_secs_f64()) - 0.1133).abs() < 0.002);
        assert_eq!(Random::new(7).unit().to_bits(), Random::new(7).unit().to_bits());
        assert_ne!(Random::new(7).unit().to_bits(), Random::new(8).unit().to_bits());
    }
}
