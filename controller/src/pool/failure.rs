//! Why a start failed: in the words that a waiting client and the Function's condition get.

use hearth_dispatch::{StartCode, StartFailure};
use hearth_protocol::CallError;
use hearth_protocol::bodies::error_type;
use hearth_scaler::Fault;

use super::instance::Phases;
use crate::backend::{self, Exit, control};
use crate::telemetry::chain;

/// What is said of an instance whose task has panicked; more is in Hearth's own log.
pub(super) const INTERNAL: &str = "an error inside Hearth ended the instance";

/// Where an instance has the user's code.
const CODE: &str = "/code/";

/// Characters of a message, of a line and of a stack, and lines, that are taken in. All of it comes from the instance, up to a frame's length,
/// and goes into the status, to those who wait and into the log, which others write to as well.
const MESSAGE: usize = 2000;
const LINE: usize = 500;
const STACK: usize = 8000;
const LINES: usize = 20;

/// The first `most` characters, with a sign where there were more.
fn cut(mut text: String, most: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(most) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// A failed start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What those who wait are told.
    pub told: StartFailure,
    /// Whether trying again at once may help.
    pub fault: Fault,
    /// Where the code failed, in the words of its language, if it did.
    pub stack: Option<String>,
    /// How long the parts of the start took, as far as it came; the one in which it failed is the last that is not 0.
    pub phases: Phases,
}

impl Failure {
    fn new(fault: Fault, code: StartCode, message: String) -> Self {
        let told = StartFailure { code, message: cut(message, MESSAGE), last_lines: Vec::new() };
        Self { told, fault, stack: None, phases: Phases::default() }
    }

    /// The same, with what is known of the start's parts; what is left of `total` is the time of the one in which it failed.
    pub(super) fn after(mut self, mut phases: Phases, total: std::time::Duration) -> Self {
        let rest = total.saturating_sub(phases.create + phases.boot + phases.load);
        let failed = if phases.create.is_zero() {
            &mut phases.create
        } else if phases.boot.is_zero() {
            &mut phases.boot
        } else {
            &mut phases.load
        };
        *failed += rest;
        self.phases = phases;
        self
    }

    /// Its task has panicked.
    pub(super) fn internal() -> Self {
        Self::new(Fault::Platform, StartCode::StartFailed, INTERNAL.to_owned())
    }

    /// The same, when the function has no part in it.
    pub(super) fn platform(mut self) -> Self {
        self.fault = Fault::Platform;
        self
    }

    /// The runtime ended before it was loaded.
    pub(super) fn ended(exit: &Exit) -> Self {
        let message = format!("the instance ended while it started: {exit}");
        if exit.out_of_memory {
            let message = format!("{message}; give it more in spec.resources.memory");
            Self::new(Fault::Function, StartCode::OutOfMemory, message)
        } else {
            Self::new(Fault::Function, StartCode::ProcessEnded, message)
        }
    }

    /// The start took longer than `spec.timeouts.start`.
    pub(super) fn timeout(phase: &str, limit: std::time::Duration) -> Self {
        let limit = humantime::format_duration(limit);
        let message = format!(
            "the instance did not {phase} within {limit} (spec.timeouts.start says how long it may take)"
        );
        Self::new(Fault::Function, StartCode::StartTimeout, message)
    }

    /// The start waits for something outside, in the words of the backend.
    pub(super) fn hindered(why: String) -> StartFailure {
        Self::new(Fault::Platform, StartCode::Unschedulable, why).told
    }

    pub(super) fn backend(error: &backend::Error) -> Self {
        let (fault, code) = match error {
            backend::Error::Invalid { .. } => (Fault::Function, StartCode::Invalid),
            backend::Error::Unsupported { .. } => (Fault::Function, StartCode::Unsupported),
            // Nobody makes it in the moment that another try takes.
            backend::Error::Lacking(_) => (Fault::Function, StartCode::StartFailed),
            backend::Error::Image(_) => (Fault::Platform, StartCode::ImageMissing),
            backend::Error::NotFound(_) | backend::Error::Step { .. } => {
                (Fault::Platform, StartCode::StartFailed)
            }
        };
        Self::new(fault, code, chain(error))
    }

    pub(super) fn control(error: control::Error, limit: std::time::Duration) -> Self {
        match error {
            control::Error::Timeout { phase } => Self::timeout(phase, limit),
            control::Error::Load(error) => Self::load(error),
            // The process is gone; how is not known yet.
            control::Error::Closed { .. } => {
                Self::new(Fault::Function, StartCode::ProcessEnded, error.to_string())
            }
            control::Error::Io { .. }
            | control::Error::Decode(_)
            | control::Error::Violation(_)
            | control::Error::Encode(_)
            | control::Error::Refused(_) => Self::new(Fault::Platform, StartCode::StartFailed, chain(&error)),
        }
    }

    fn load(error: CallError) -> Self {
        // An earlier controller was killed while it loaded: what became of that nobody knows.
        if error.kind == error_type::ALREADY_LOADED {
            return Self::new(Fault::Platform, StartCode::StartFailed, error.message);
        }
        let code = match error.kind.as_str() {
            error_type::FILE_MISSING => StartCode::HandlerFileMissing,
            error_type::HANDLER_MISSING => StartCode::HandlerMissing,
            error_type::UNSUPPORTED => StartCode::HandlerUnsupported,
            error_type::PROCESS_ENDED => StartCode::ProcessEnded,
            _ => StartCode::LoadFailed,
        };
        let place = error.stack.as_deref().and_then(place).filter(|place| !error.message.contains(place));
        let message = match place {
            Some(place) => {
                let message = without_pythons_place(&error.message, &place).to_owned();
                format!("{} ({place})", cut(message, MESSAGE - LINE))
            }
            None => error.message,
        };
        let mut failure = Self::new(Fault::Function, code, message);
        let skip = error.lines.len().saturating_sub(LINES);
        failure.told.last_lines = error.lines.into_iter().skip(skip).map(|line| cut(line, LINE)).collect();
        failure.stack = error.stack.map(|stack| cut(stack, STACK));
        failure
    }
}

/// Python ends what it says of a syntax error with the place in its own words, ` (main.py, line 3)`: once is enough.
fn without_pythons_place<'a>(message: &'a str, place: &str) -> &'a str {
    let Some((file, line)) = place.rsplit_once(':') else { return message };
    let name = file.rsplit('/').next().unwrap_or(file);
    message.strip_suffix(&format!(" ({name}, line {line})")).unwrap_or(message)
}

/// The file and the line of the user's code that a stack leads to, as in `src/index.js:3`: Node's first, Python's last; one in installed
/// packages only when there is no other.
fn place(stack: &str) -> Option<String> {
    let python: Vec<String> = stack.lines().filter_map(python_place).collect();
    let places = if python.is_empty() {
        stack.lines().filter_map(node_place).collect()
    } else {
        python.into_iter().rev().collect::<Vec<_>>()
    };
    let own =
        places.iter().find(|place| !place.contains("node_modules/") && !place.contains("site-packages/"));
    own.or_else(|| places.first()).cloned()
}

/// `  File "/code/main.py", line 4, in f`.
fn python_place(line: &str) -> Option<String> {
    let (file, rest) = line.trim_start().strip_prefix("File \"")?.split_once("\", line ")?;
    let file = file.strip_prefix(CODE)?;
    let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
    (!number.is_empty()).then(|| format!("{file}:{number}"))
}

/// `/code/index.js:3`, `    at boot (/code/index.js:2:25)` and `    at file:///code/index.mjs:2:25`.
fn node_place(line: &str) -> Option<String> {
    let (before, place) = line.split_once(CODE)?;
    let trimmed = before.trim_start();
    let begins = trimmed.is_empty() || trimmed == "file://" || trimmed.starts_with("at ");
    let (file, rest) = place.split_once(':')?;
    let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
    (begins && !number.is_empty()).then(|| format!("{file}:{number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_try_at_once_may_mend_is_told_from_what_it_cannot() {
        let missing = CallError::new(error_type::HANDLER_MISSING, "index.js has no export \"handler\"");
        let failure = Failure::control(control::Error::Load(missing), std::time::Duration::from_secs(60));
        assert_eq!((failure.told.code, failure.fault), (StartCode::HandlerMissing, Fault::Function));
        let step = backend::Error::Step {
            step: "create the cgroup",
            instance: hearth_function::InstanceId::parse("hello-x").unwrap(),
            source: std::io::Error::other("no space left"),
        };
        let failure = Failure::backend(&step);
        assert_eq!(failure.fault, Fault::Platform);
        assert_eq!(failure.told.message, "create the cgroup for instance hello-x: no space left");
        let of = |error: backend::Error| {
            let failure = Failure::backend(&error);
            (failure.told.code, failure.fault, failure.told.message)
        };
        let said = || "no".to_owned();
        let secret = of(backend::Error::Lacking(said()));
        assert_eq!(secret, (StartCode::StartFailed, Fault::Function, said()));
        let image = of(backend::Error::Image(said()));
        assert_eq!(image, (StartCode::ImageMissing, Fault::Platform, said()));
    }

    #[test]
    fn what_does_not_load_says_in_which_file_and_line() {
        let syntax = "/code/src/index.js:3\nexports.handler = {\n\n\nSyntaxError: Unexpected end of input\n    at wrapSafe (node:internal)";
        let thrown = "Error: no config\n    at check (/code/node_modules/config/a.js:9:1)\n    at boot (/code/index.js:2:25)\n    at Object.<anonymous> (/code/index.js:3:1)";
        let module = "TypeError: x is not a function\n    at file:///code/index.mjs:2:1\n    at ModuleJob.run (node:internal/x:1:2)";
        let python = "Traceback (most recent call last):\n  File \"/usr/lib/python3.11/importlib/__init__.py\", line 126, in import_module\n  File \"/code/main.py\", line 5, in <module>\n    f()\n  File \"/code/lib/db.py\", line 14, in f\n    raise ValueError(\"no db\")\nValueError: no db\n";
        let elsewhere = "Error: x\n    at node:internal/modules:1:2\n    see /code/a:1";
        for (stack, expected) in [
            (syntax, Some("src/index.js:3")),
            (thrown, Some("index.js:2")),
            (module, Some("index.mjs:2")),
            (python, Some("lib/db.py:14")),
            (elsewhere, None),
        ] {
            let mut error = CallError::new("LoadFailed", "no");
            error.stack = Some(stack.to_owned());
            let failure = Failure::load(error);
            let message = expected.map_or_else(|| "no".to_owned(), |place| format!("no ({place})"));
            assert_eq!(failure.told.message, message, "{stack}");
            assert_eq!(failure.stack.as_deref(), Some(stack));
        }
    }

    #[test]
    fn the_place_of_pythons_syntax_error_is_said_once() {
        let said = |message: &str, stack: &str| {
            let mut error = CallError::new("LoadFailed", message);
            error.stack = Some(stack.to_owned());
            Failure::load(error).told.message
        };
        let stack = "  File \"/code/src/main.py\", line 3\n    x(\nSyntaxError: '(' was never closed\n";
        assert_eq!(
            said("SyntaxError: '(' was never closed (main.py, line 3)", stack),
            "SyntaxError: '(' was never closed (src/main.py:3)"
        );
        assert!(said("E: other (main.py, line 4)", stack).ends_with("line 4) (src/main.py:3)"));
    }

    #[test]
    fn what_an_instance_says_of_its_failure_has_bounds() {
        let long = "ü".repeat(100_000);
        let mut error = CallError { lines: vec![long.clone(); 100], ..CallError::new("LoadFailed", &long) };
        error.stack = Some(format!("{long}\n    at boot (/code/index.js:2:25)"));
        let failure = Failure::load(error);
        let length = |text: &str| text.chars().count();
        assert!(length(&failure.told.message) <= MESSAGE + 1, "{}", length(&failure.told.message));
        assert!(failure.told.message.ends_with("… (index.js:2)"));
        assert_eq!(failure.told.last_lines.len(), LINES);
        assert!(failure.told.last_lines.iter().all(|line| length(line) == LINE + 1));
        assert_eq!(failure.stack.as_deref().map(length), Some(STACK + 1));
        let refused = CallError::new("Refused", &long);
        let failure = Failure::control(control::Error::Refused(refused), std::time::Duration::ZERO);
        assert_eq!(length(&failure.told.message), MESSAGE + 1);
    }

    #[test]
    fn the_time_of_a_failed_start_is_in_the_part_in_which_it_failed() {
        let ms = std::time::Duration::from_millis;
        let phases = Phases { schedule: ms(1), create: ms(20), ..Phases::default() };
        let failed = Failure::internal().after(phases, ms(50)).phases;
        assert_eq!(failed, Phases { schedule: ms(1), create: ms(20), boot: ms(30), load: ms(0) });
        let failed = Failure::internal().after(Phases { boot: ms(25), ..phases }, ms(50)).phases;
        assert_eq!((failed.boot, failed.load), (ms(25), ms(5)));
        assert_eq!(Failure::internal().after(Phases::default(), ms(7)).phases.create, ms(7));
    }

    #[test]
    fn out_of_memory_says_what_to_change() {
        let failure = Failure::ended(&Exit { code: None, signal: Some(9), out_of_memory: true });
        assert_eq!(failure.told.code, StartCode::OutOfMemory);
        assert!(failure.told.message.contains("spec.resources.memory"), "{}", failure.told.message);
    }
}
