//! Sizes, times and counts.

use super::Problems;
use crate::spec::{FunctionSpec, Pause, ProcessModel};
use crate::values::{ByteSize, CpuMillis, HumanDuration};

/// Below this not even a small static server starts.
const LEAST_MEMORY: ByteSize = ByteSize::from_mebibytes(16);
/// Below this Node and `CPython` do not come up.
const LEAST_RUNTIME_MEMORY: ByteSize = ByteSize::from_mebibytes(32);
const MOST_MEMORY: ByteSize = ByteSize::from_mebibytes(1024 * 1024);
/// A tmpfs of size 0 has no limit at all.
const LEAST_TMP: ByteSize = ByteSize::from_mebibytes(1);
const LEAST_CPU: CpuMillis = CpuMillis::from_millis(10);
const MOST_CPU: CpuMillis = CpuMillis::from_millis(1_024_000);
/// Most instances of a Function.
pub(crate) const MOST_INSTANCES: u32 = 1000;
/// Most calls at once in an instance: Knative's limit for the concurrency of a container.
pub(crate) const MOST_CONCURRENCY: u32 = 1000;
/// Shortest window, Knative's too.
pub(crate) const LEAST_WINDOW: HumanDuration = HumanDuration::from_secs(6);

const SECOND: HumanDuration = HumanDuration::from_secs(1);
const HOUR: HumanDuration = HumanDuration::from_secs(3600);
/// Longest time of most that a Function says.
pub(crate) const DAY: HumanDuration = HumanDuration::from_secs(24 * 3600);

pub(super) fn check(spec: &FunctionSpec, found: &mut Problems) {
    resources(spec, found);
    timeouts(spec, found);
    concurrency(spec, found);
    scale(spec, found);
}

fn between<T: PartialOrd + std::fmt::Display>(value: T, least: T, most: T, path: &str, found: &mut Problems) {
    if value < least {
        found.add(path, format!("{value} is too little"), format!("give at least {least}"));
    } else if value > most {
        found.add(path, format!("{value} is too much"), format!("give at most {most}"));
    }
}

/// Whether a size would do in mebibytes, and is so small that somebody has left out the unit.
fn unitless(size: ByteSize, least: ByteSize) -> bool {
    size.bytes() <= 64 * 1024 && size.bytes() << 20 >= least.bytes()
}

fn without_unit(size: ByteSize, path: &str, found: &mut Problems) {
    let message = format!("{} bytes are too little", size.bytes());
    found.add(path, message, format!("give a unit, as in {}Mi", size.bytes()));
}

fn resources(spec: &FunctionSpec, found: &mut Problems) {
    let resources = &spec.resources;
    let least = if spec.runtime.has_handler() { LEAST_RUNTIME_MEMORY } else { LEAST_MEMORY };
    if unitless(resources.memory, least) {
        without_unit(resources.memory, "spec.resources.memory", found);
    } else if spec.runtime.has_handler() && resources.memory < least {
        let message = format!("{} does not start with {}", spec.runtime, resources.memory);
        let fix = format!("give at least {least}");
        found.add_from(&["spec.runtime"], "spec.resources.memory", message, fix);
    } else {
        between(resources.memory, LEAST_MEMORY, MOST_MEMORY, "spec.resources.memory", found);
    }
    if let Some(cpu) = resources.cpu {
        between(cpu, LEAST_CPU, MOST_CPU, "spec.resources.cpu", found);
    }
    let Some(tmp) = resources.tmp else { return };
    if tmp > resources.memory && tmp >= LEAST_TMP {
        let message = format!("{tmp} of /tmp do not fit into {} of memory, which holds it", resources.memory);
        let fix = "give more memory or a smaller tmp";
        found.add_from(&["spec.resources.memory"], "spec.resources.tmp", message, fix);
    } else if unitless(tmp, LEAST_TMP) {
        without_unit(tmp, "spec.resources.tmp", found);
    } else {
        between(tmp, LEAST_TMP, MOST_MEMORY, "spec.resources.tmp", found);
    }
}

fn timeouts(spec: &FunctionSpec, found: &mut Problems) {
    let timeouts = &spec.timeouts;
    between(timeouts.queue, HumanDuration::from_millis(100), HOUR, "spec.timeouts.queue", found);
    between(timeouts.start, SECOND, HOUR, "spec.timeouts.start", found);
    between(timeouts.execute, HumanDuration::from_millis(10), DAY, "spec.timeouts.execute", found);
    if timeouts.idle_stream != HumanDuration::from_secs(0) {
        between(timeouts.idle_stream, SECOND, DAY, "spec.timeouts.idleStream", found);
    }
}

fn concurrency(spec: &FunctionSpec, found: &mut Problems) {
    if let Some(limit) = spec.concurrency.limit {
        const PATH: &str = "spec.concurrency.limit";
        if spec.process_model == ProcessModel::Ephemeral && limit > 1 {
            let message = format!("an ephemeral instance serves one call, and not {limit} at once");
            let fix = "take it out, or use `processModel: resident`";
            found.add_from(&["spec.processModel"], PATH, message, fix);
        } else {
            between(limit, 1, MOST_CONCURRENCY, PATH, found);
        }
    }
    if spec.concurrency.target.hundredths() == 0 {
        found.add(
            "spec.concurrency.target",
            "an instance that is to be empty gets no call",
            "give at least 1%",
        );
    }
}

pub(super) fn idle_timeout(timeout: HumanDuration, found: &mut Problems) {
    between(timeout, SECOND, DAY, "spec.scale.idleTimeout", found);
}

fn scale(spec: &FunctionSpec, found: &mut Problems) {
    let scale = &spec.scale;
    between(scale.max, 1, MOST_INSTANCES, "spec.scale.max", found);
    if scale.max >= 1 {
        for (path, name, value) in [
            ("spec.scale.min", "min", scale.min),
            ("spec.scale.initial", "initial", scale.initial),
            ("spec.scale.activation", "activation", scale.activation),
        ] {
            if value > scale.max {
                let message = format!("{name} is {value}, and max is {}", scale.max);
                let fix = format!("lower it to {}, or raise max", scale.max);
                found.add_from(&["spec.scale.max"], path, message, fix);
            }
        }
    }
    between(scale.window, LEAST_WINDOW, HOUR, "spec.scale.window", found);
    // At most an hour is Knative's bound for a scale-down-delay.
    between(scale.scale_down_delay, HumanDuration::from_secs(0), HOUR, "spec.scale.scaleDownDelay", found);
    idle_timeout(scale.idle_timeout, found);
    if let Some(Pause::After(time)) = scale.pause {
        between(time, HumanDuration::from_millis(100), DAY, "spec.scale.pause", found);
    }
    for (index, window) in scale.reserved.iter().enumerate() {
        between(window.count, 1, scale.max.max(1), &format!("spec.scale.reserved[{index}].count"), found);
        let path = format!("spec.scale.reserved[{index}].duration");
        between(window.duration, HumanDuration::from_secs(60), DAY, &path, found);
        super::triggers::schedule(&window.schedule, &format!("spec.scale.reserved[{index}].schedule"), found);
    }
}
