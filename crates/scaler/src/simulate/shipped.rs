//! The traces that come with Hearth, made from a seed.
//!
//! | name | what it is | the question it asks |
//! | --- | --- | --- |
//! | steady | 17 to 52 calls at once on average, for an hour | are slots wasted, does it oscillate? |
//! | diurnal | a day from night to noon and back | does it follow? |
//! | burst | half a minute to two of many calls, one to fifteen of none | what does the first second of a burst cost, and the time between? |
//! | cron | twelve functions, each at its own period, nearly on time | is a predictable call met warm without being waited for? |
//! | rare | two hundred functions, most called less than once an hour | who is worth to be kept? |
//! | flash | a quiet site that is suddenly in the news | how long do the first thousand wait? |

use std::time::Duration;

use super::random::{Random, Spread};
use super::trace::{Call, Trace};

/// The names of the traces.
pub const NAMES: [&str; 6] = ["steady", "diurnal", "burst", "cron", "rare", "flash"];

const HOUR: f64 = 3600.0;

/// The trace of this name; `None` when there is none.
#[must_use]
pub fn shipped(name: &str, seed: u64) -> Option<Trace> {
    let mut random = Random::new(seed);
    // Each has its own numbers, so that one can be made without the others.
    let number = NAMES.iter().position(|known| *known == name)?;
    (0..number).for_each(|_| drop(random.fork()));
    let random = &mut random.fork();
    Some(match name {
        "steady" => steady(random),
        "diurnal" => diurnal(random),
        "burst" => burst(random),
        "cron" => cron(random),
        "rare" => rare(random),
        _ => flash(random),
    })
}

/// Calls without memory at a rate that changes: `per_second` at each time, at most `highest`.
fn arrivals(
    random: &mut Random,
    from: f64,
    until: f64,
    highest: f64,
    per_second: impl Fn(f64) -> f64,
    mut each: impl FnMut(&mut Random, f64),
) {
    let mut at = from;
    loop {
        at += random.exponential(1.0 / highest);
        if at >= until {
            return;
        }
        // Thinning (Lewis and Shedler, 1979).
        if random.unit() * highest < per_second(at) {
            each(random, at);
        }
    }
}

fn single(name: &str, calls: Vec<Call>, seconds: f64) -> Trace {
    Trace::new(name, vec![name.to_owned()], calls, Duration::from_secs_f64(seconds))
}

fn call(at: f64, function: usize, service: &Spread, random: &mut Random) -> Call {
    Call { at: Duration::from_secs_f64(at), function, service: service.draw(random) }
}

fn millis(median: u64, sigma: f64) -> Spread {
    Spread { median: Duration::from_millis(median), sigma }
}

fn steady(random: &mut Random) -> Trace {
    let service = millis(800, 0.4);
    let rate = random.between(20.0, 60.0);
    let mut calls = Vec::new();
    arrivals(random, 0.0, HOUR, rate, |_| rate, |random, at| calls.push(call(at, 0, &service, random)));
    single("steady", calls, HOUR)
}

fn diurnal(random: &mut Random) -> Trace {
    let service = millis(3000, 0.6);
    let day = 24.0 * HOUR;
    // Hardly anyone at four in the morning, four a second at four in the afternoon.
    let rate = |at: f64| 0.01 + 2.0 * (1.0 - ((at / HOUR - 4.0) / 24.0 * std::f64::consts::TAU).cos());
    let mut calls = Vec::new();
    arrivals(random, 0.0, day, 4.1, rate, |random, at| calls.push(call(at, 0, &service, random)));
    single("diurnal", calls, day)
}

fn burst(random: &mut Random) -> Trace {
    let service = millis(1500, 0.4);
    let length = 6.0 * HOUR;
    let mut calls = Vec::new();
    let mut from = 0.0;
    while from < length {
        let until = (from + random.between(30.0, 120.0)).min(length);
        let rate = random.between(20.0, 80.0);
        arrivals(random, from, until, rate, |_| rate, |random, at| calls.push(call(at, 0, &service, random)));
        from = until + random.between(60.0, 900.0);
    }
    single("burst", calls, length)
}

fn cron(random: &mut Random) -> Trace {
    let service = millis(2000, 0.5);
    let length = 24.0 * HOUR;
    let periods = [1.0, 2.0, 5.0, 5.0, 10.0, 15.0, 15.0, 20.0, 30.0, 30.0, 60.0, 120.0];
    let mut calls = Vec::new();
    for (function, minutes) in periods.into_iter().enumerate() {
        let period = minutes * 60.0;
        let mut due = random.between(0.0, period);
        while due < length {
            // A scheduler is a second or two late.
            calls.push(call(due + random.exponential(1.0), function, &service, random));
            due += period;
        }
    }
    let names = periods.iter().enumerate().map(|(number, minutes)| format!("every-{minutes}m-{number}"));
    Trace::new("cron", names.collect(), calls, Duration::from_secs_f64(length))
}

fn rare(random: &mut Random) -> Trace {
    let service = millis(600, 0.8);
    let length = 24.0 * HOUR;
    let functions = 200_u32;
    let mut calls = Vec::new();
    for function in 0..functions {
        // As in the Azure trace: times between calls over four orders of magnitude, from a minute to a week; 45 % of functions are
        // called less than once an hour.
        let mean = 60.0 * 10f64.powf(4.0 * (f64::from(function) + random.unit()) / f64::from(functions));
        // A third comes in visits of a few calls.
        let visits = random.unit() < 0.33;
        let mut at = random.exponential(mean);
        while at < length {
            let in_visit = if visits { 1.0 + random.exponential(4.0) } else { 1.0 };
            let mut left = in_visit;
            while left >= 1.0 && at < length {
                calls.push(call(at, function as usize, &service, random));
                left -= 1.0;
                if left >= 1.0 {
                    at += random.exponential(8.0);
                }
            }
            at += random.exponential(mean);
        }
    }
    let names = (0..functions).map(|function| format!("rare-{function}")).collect();
    Trace::new("rare", names, calls, Duration::from_secs_f64(length))
}

fn flash(random: &mut Random) -> Trace {
    let service = millis(800, 0.4);
    let length = 2.0 * HOUR;
    let mut calls = Vec::new();
    let begin = random.between(0.25, 0.75) * HOUR;
    let peak = random.between(150.0, 400.0);
    // Within a second everyone is there; half of them are gone after two minutes, half of the rest after two more.
    let rate = move |at: f64| {
        let since = at - begin;
        let crowd = if since < 0.0 { 0.0 } else { since.min(1.0) * (-(since - 1.0).max(0.0) / 173.0).exp() };
        0.5 + peak * crowd
    };
    arrivals(random, 0.0, length, peak + 1.0, rate, |random, at| calls.push(call(at, 0, &service, random)));
    single("flash", calls, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_trace_and_the_seed_decides() {
        for name in NAMES {
            let trace = shipped(name, 1).unwrap();
            assert_eq!(trace.name, name);
            assert!(trace.calls.len() > 1000 && trace.calls.is_sorted_by_key(|call| call.at), "{name}");
            assert!(trace.calls.iter().all(|call| call.function < trace.functions.len()), "{name}");
            assert!(trace.calls.last().is_some_and(|call| call.at <= trace.length + Duration::from_secs(30)));
            assert_ne!(shipped(name, 2).unwrap().calls, trace.calls, "{name}");
        }
        assert_eq!(shipped("cron", 3), shipped("cron", 3));
        assert_eq!(shipped("other", 1), None);
    }
}
