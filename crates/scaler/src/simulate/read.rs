//! Traces out of files.
//!
//! Two forms are read, both with commas and quotes as RFC 4180 has them; lines that begin with `#` and empty ones are passed over:
//! * Calls, one a line: `function,start,duration`, both in seconds. What `hearth record` writes. The trace begins with the first start,
//!   whatever the order of the lines: Unix timestamps will do.
//! * The invocations of the Azure Functions 2019 trace: `HashOwner,HashApp,HashFunction,Trigger,1,2,…,1440`, calls per minute of a day. When
//!   in the minute they come, and how long they take, is drawn.
//!
//! A trace is bounded, and refused at the line where it goes beyond: by [`MOST_CALLS`], [`MOST_FUNCTIONS`] and [`LONGEST`].

use std::collections::BTreeMap;
use std::time::Duration;

use csv::{Position, Reader, ReaderBuilder, StringRecord, Trim};

use super::random::{Random, Spread};
use super::trace::{Call, Trace, TraceError};

/// The header of a file of calls.
pub const HEADER: &str = "function,start,duration";

/// Calls of one trace, at most. They are held in memory, with the wait of each under every policy.
pub const MOST_CALLS: usize = 10_000_000;

/// Functions of one trace, at most. Each has a gateway and a memory of its own.
pub const MOST_FUNCTIONS: usize = 100_000;

/// From the first call's start to the last one's end, at most: 31 days.
pub const LONGEST: Duration = Duration::from_secs(31 * 24 * 3600);

/// The first words of the header of a file of the Azure Functions 2019 trace.
const AZURE: &str = "HashOwner,HashApp,HashFunction,Trigger";

/// What a trace keeps after its last call, so that what is left warm is counted for every policy alike.
const AFTER: Duration = Duration::from_secs(60);

const MINUTE: Duration = Duration::from_secs(60);

impl Trace {
    /// Reads either form. `durations` and `random` are for calls whose duration is not in the file.
    ///
    /// # Errors
    /// At the first line that cannot be read, and where the trace is longer or has more in it than is replayed.
    pub fn parse(
        name: &str,
        text: &str,
        durations: &Spread,
        random: &mut Random,
    ) -> Result<Self, TraceError> {
        let mut rows = Rows::new(text);
        let trace = if !rows.advance()? {
            None
        } else if rows.begin_with(AZURE) {
            Some(azure(name, rows, durations, random)?)
        } else {
            Some(calls(name, rows)?)
        };
        trace
            .filter(|trace| !trace.calls.is_empty())
            .ok_or_else(|| TraceError { line: 1, what: "there is no call in it".to_owned() })
    }
}

/// Reads calls; the first record is there already.
fn calls(name: &str, mut rows: Rows<'_>) -> Result<Trace, TraceError> {
    let mut names = Names::default();
    let mut calls = Vec::new();
    let mut first = Duration::MAX;
    // The call that ends last, and where it stands.
    let (mut last, mut line) = (Duration::ZERO, 1);
    let mut more = if rows.begin_with(HEADER) { rows.advance()? } else { true };
    while more {
        let wrong = |what: &str| rows.wrong(format!("{what}; expected {HEADER}, as in hello,12.5,0.080"));
        let mut fields = rows.record.iter();
        let (Some(function), Some(start), Some(duration), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(wrong("not three fields"));
        };
        let at = seconds(start).ok_or_else(|| wrong("the start is no time in seconds"))?;
        let service = seconds(duration).ok_or_else(|| wrong("the duration is no time in seconds"))?;
        if calls.len() == MOST_CALLS {
            return Err(rows.wrong(format!("a trace has at most {MOST_CALLS} calls, and there are more")));
        }
        calls.push(Call { at, function: names.number(function, &rows)?, service });
        first = first.min(at);
        let end = at.saturating_add(service);
        if end > last {
            (last, line) = (end, rows.line);
        }
        more = rows.advance()?;
    }
    let length = last.saturating_sub(first);
    if length > LONGEST {
        let days = length.as_secs_f64() / 86_400.0;
        let what = format!(
            "this call ends {days:.1} days after the first one begins, and a trace has at most {}; starts and durations are in seconds",
            days_at_most()
        );
        return Err(TraceError { line, what });
    }
    for call in &mut calls {
        call.at = call.at.saturating_sub(first);
    }
    Ok(Trace::new(name, names.in_order, calls, length + AFTER))
}

/// Reads counts per minute; the header is there already.
fn azure(
    name: &str,
    mut rows: Rows<'_>,
    durations: &Spread,
    random: &mut Random,
) -> Result<Trace, TraceError> {
    let minutes = rows.record.len().saturating_sub(AZURE.split(',').count());
    let length = MINUTE.saturating_mul(u32::try_from(minutes).unwrap_or(u32::MAX));
    if length > LONGEST {
        let what = format!("the header names {minutes} minutes, and a trace has at most {}", days_at_most());
        return Err(rows.wrong(what));
    }
    let mut names = Names::default();
    let mut calls = Vec::new();
    while rows.advance()? {
        let mut fields = rows.record.iter();
        let (Some(owner), Some(app), Some(function), Some(_trigger)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(rows.wrong(format!("expected {AZURE} and a count for each minute")));
        };
        let there = rows.record.len() - 4;
        if there != minutes {
            let missing = if there < minutes {
                format!(": those from minute {} on are missing", there + 1)
            } else {
                String::new()
            };
            let what = format!("{there} counts, and the header names {minutes} minutes{missing}");
            return Err(rows.wrong(what));
        }
        let function = names.number(&format!("{owner}/{app}/{function}"), &rows)?;
        for (minute, count) in fields.enumerate() {
            let count: usize = count
                .parse()
                .map_err(|_| rows.wrong(format!("minute {}: {count:?} is no count", minute + 1)))?;
            if count > MOST_CALLS - calls.len() {
                let what = format!(
                    "minute {}: a trace has at most {MOST_CALLS} calls, and there are more; take some of its functions",
                    minute + 1
                );
                return Err(rows.wrong(what));
            }
            #[expect(clippy::cast_precision_loss, reason = "there are 44,640 minutes in the longest trace")]
            let from = minute as f64 * 60.0;
            for _ in 0..count {
                let at = Duration::from_secs_f64(random.between(from, from + 60.0));
                calls.push(Call { at, function, service: durations.draw(random) });
            }
        }
    }
    Ok(Trace::new(name, names.in_order, calls, length))
}

fn days_at_most() -> String {
    format!("{} days", LONGEST.as_secs() / 86_400)
}

fn seconds(text: &str) -> Option<Duration> {
    text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

/// The records of a text, one after the other, each with its line.
struct Rows<'a> {
    text: &'a str,
    reader: Reader<&'a [u8]>,
    /// Its fields, without the blanks around them.
    record: StringRecord,
    /// Where it begins, from 1.
    line: usize,
}

impl<'a> Rows<'a> {
    fn new(text: &'a str) -> Self {
        // Spreadsheets begin with a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .trim(Trim::All)
            .comment(Some(b'#'))
            .from_reader(text.as_bytes());
        Self { text, reader, record: StringRecord::new(), line: 1 }
    }

    /// Reads the next record; false at the end.
    fn advance(&mut self) -> Result<bool, TraceError> {
        loop {
            let from = self.reader.position().clone();
            self.line = self.line_of(&from);
            match self.reader.read_record(&mut self.record) {
                // A line of blanks.
                Ok(true) if self.record.len() == 1 && self.record.get(0) == Some("") => {}
                Ok(more) => return Ok(more),
                Err(error) => return Err(self.wrong(error.to_string())),
            }
        }
    }

    /// The line of the record that is read next from there: the reader's own is that of what it passes over before.
    fn line_of(&self, from: &Position) -> usize {
        let rest = usize::try_from(from.byte()).ok().and_then(|byte| self.text.get(byte..));
        let passed = rest
            .unwrap_or_default()
            .lines()
            .take_while(|line| line.is_empty() || line.starts_with('#'))
            .count();
        usize::try_from(from.line()).unwrap_or(usize::MAX).saturating_add(passed)
    }

    /// Whether the record begins with these fields.
    fn begin_with(&self, header: &str) -> bool {
        let mut fields = self.record.iter();
        header
            .split(',')
            .all(|expected| fields.next().is_some_and(|field| field.eq_ignore_ascii_case(expected)))
    }

    fn wrong(&self, what: String) -> TraceError {
        TraceError { line: self.line, what }
    }
}

#[derive(Default)]
struct Names {
    in_order: Vec<String>,
    numbers: BTreeMap<String, usize>,
}

impl Names {
    fn number(&mut self, name: &str, rows: &Rows<'_>) -> Result<usize, TraceError> {
        if let Some(number) = self.numbers.get(name) {
            return Ok(*number);
        }
        let number = self.in_order.len();
        if number == MOST_FUNCTIONS {
            let what = format!("a trace has at most {MOST_FUNCTIONS} functions, and there are more");
            return Err(rows.wrong(what));
        }
        self.in_order.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const TENTH: Spread = Spread { median: Duration::from_millis(100), sigma: 0.0 };

    fn parse(text: &str) -> Result<Trace, TraceError> {
        Trace::parse("t", text, &TENTH, &mut Random::new(1))
    }

    fn said(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    fn starts(trace: &Trace) -> Vec<(Duration, usize)> {
        trace.calls.iter().map(|call| (call.at, call.function)).collect()
    }

    #[test]
    fn calls_are_read_in_any_order() {
        let trace = parse("function,start,duration\n# remark\nb,2.5,0.1\na, 1, 0.25\n\nb,0,1\n").unwrap();
        assert_eq!(trace.functions, ["b", "a"]);
        assert_eq!(starts(&trace), [(Duration::ZERO, 0), (1000 * MS, 1), (2500 * MS, 0)]);
        assert_eq!(trace.length, 62_600 * MS);
    }

    #[test]
    fn the_first_start_is_the_beginning_wherever_it_stands() {
        let trace = parse("a,1764350003,0.5\nb,1764350001.5,0.1\na,1764350000,0.1\n").unwrap();
        assert_eq!(starts(&trace), [(Duration::ZERO, 0), (1500 * MS, 1), (3000 * MS, 0)]);
        assert_eq!(trace.length, 63_500 * MS);
    }

    #[test]
    fn what_is_quoted_may_hold_commas_and_quotes() {
        let trace = parse("\u{feff}\"b,c\",1,0.2\r\n\"say \"\"hi\"\"\",\"2\",0.1\r\n\"#d\",3,0\r\n").unwrap();
        assert_eq!(trace.functions, ["b,c", "say \"hi\"", "#d"]);
        assert_eq!(starts(&trace), [(Duration::ZERO, 0), (1000 * MS, 1), (2000 * MS, 2)]);
        // A quote that is never closed takes the rest of the file.
        assert!(said("a,1,1\n\"b,2,1\nc,3,1\n").starts_with("line 2: not three fields"));
    }

    #[test]
    fn counts_per_minute_are_spread_over_it() {
        let text = "HashOwner,HashApp,HashFunction,Trigger,1,2,3\no,a,f,http,2,0,1\no,a,g,timer,0,3,0\n";
        let trace = parse(text).unwrap();
        assert_eq!(trace.functions, ["o/a/f", "o/a/g"]);
        let minutes: Vec<_> =
            trace.calls.iter().map(|call| (call.at.as_secs() / 60, call.function)).collect();
        assert_eq!(minutes, [(0, 0), (0, 0), (1, 1), (1, 1), (1, 1), (2, 0)]);
        assert_eq!((trace.calls[0].service, trace.length), (100 * MS, 180_000 * MS));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        assert_eq!(
            said("a,1,1\na,1\n"),
            "line 2: not three fields; expected function,start,duration, as in hello,12.5,0.080"
        );
        assert!(said("a,-1,1\n").starts_with("line 1: the start is no time in seconds"));
        assert!(said("a,1,x\n").starts_with("line 1: the duration is no time"));
        assert_eq!(said(""), "line 1: there is no call in it");
        assert_eq!(said("function,start,duration\n# nothing\n"), "line 1: there is no call in it");
        let text = "HashOwner,HashApp,HashFunction,Trigger,1\no,a,f,http,-2\n";
        assert_eq!(said(text), "line 2: minute 1: \"-2\" is no count");
    }

    #[test]
    fn lines_are_counted_with_those_that_are_passed_over() {
        for end in ["\n", "\r\n"] {
            let text =
                ["# remark", "", "a,1,1", "", "# two", "   ", "\"b", "c\",1,1", "# three", "a,x,1", ""];
            assert!(said(&text.join(end)).starts_with("line 10: the start"), "{end:?}");
        }
        assert!(said("a,1,1\n# remark\na,x,1").starts_with("line 3: the start"));
    }

    #[test]
    fn a_row_that_is_cut_off_is_refused() {
        let header = "HashOwner,HashApp,HashFunction,Trigger,1,2,3,4,5";
        let with = |row: &str| said(&format!("{header}\no,a,e,http,1,1,1,1,1\n{row}\n"));
        assert_eq!(
            with("o,a,f,http,1,2,3"),
            "line 3: 3 counts, and the header names 5 minutes: those from minute 4 on are missing"
        );
        assert_eq!(with("o,a,f,http,1,2,3,4,5,6"), "line 3: 6 counts, and the header names 5 minutes");
        assert!(with("o,a").starts_with("line 3: expected HashOwner"));
    }

    #[test]
    fn what_is_too_much_to_be_replayed_is_refused_before_it_is_drawn() {
        let counts = |counts: &str| {
            said(&format!("HashOwner,HashApp,HashFunction,Trigger,1,2\no,a,f,http,{counts}\n"))
        };
        for counted in ["1,2000000000", "1,10000000", "1,99999999999"] {
            assert_eq!(
                counts(counted),
                "line 2: minute 2: a trace has at most 10000000 calls, and there are more; take some of its functions"
            );
        }
        assert_eq!(
            said("a,0,1\na,1764350000,0.1\na,5,1\n"),
            "line 2: this call ends 20420.7 days after the first one begins, and a trace has at most 31 days; \
             starts and durations are in seconds"
        );
        assert!(said("a,0,1\na,1e19,1e19\n").starts_with("line 2: this call ends"));
        assert_eq!(parse("a,7,1\na,2678400,7\n").unwrap().length, LONGEST + AFTER);
        let minutes: String = (1..=44_641).map(|minute| format!(",{minute}")).collect();
        assert_eq!(
            said(&format!("HashOwner,HashApp,HashFunction,Trigger{minutes}\n")),
            "line 1: the header names 44641 minutes, and a trace has at most 31 days"
        );
        let functions: String = (0..=MOST_FUNCTIONS).map(|number| format!("f{number},0,0\n")).collect();
        assert_eq!(said(&functions), "line 100001: a trace has at most 100000 functions, and there are more");
    }
}
