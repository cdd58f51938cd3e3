//! `hearth logs`.

mod following;

use std::time::Duration;

use futures_util::{AsyncBufReadExt, TryStreamExt};

use super::args::{Format, Logs};
use super::client::Server;
use super::error::Error;
use super::out::{self, Paint};
use crate::api::ports::LogLine;

/// Runs the command.
pub(super) async fn run(arguments: Logs) -> Result<(), Error> {
    let (server, namespace) = Server::open(&arguments.place).await?;
    let names = names(&server, &namespace, &arguments).await?;
    let several = names.len() > 1;
    if several && arguments.follow {
        return Err(Error::fixable(
            format!("functions {} know this request, and one can be followed", names.join(", ")),
            format!(
                "hearth logs -f {}{} --request {}",
                names[0],
                server.place(&namespace),
                arguments.request.as_deref().unwrap_or_default()
            ),
        ));
    }
    let mut lines: u64 = 0;
    for name in &names {
        let show = |line: LogLine| {
            lines += 1;
            match arguments.output {
                Some(Format::Json) => out::line(
                    &serde_json::to_string(&line).map_err(|error| Error::failed(error.to_string()))?,
                ),
                Some(Format::Yaml) => out::text(&format!("---\n{}", out::yaml(&line)?)),
                None if several => out::text(&prefixed(name, &plain(&line, arguments.details))),
                None => out::line(&plain(&line, arguments.details)),
            }
        };
        if arguments.follow {
            following::run(&server, &namespace, name, &arguments, show).await?;
        } else {
            let path = path(&namespace, name, arguments.tail, arguments.since, &arguments);
            follow(&server, &path, show).await?;
        }
    }
    match &arguments.request {
        // One that printed nothing is known by its call.
        Some(request) if lines == 0 && arguments.tail != Some(0) => {
            Err(unknown_request(&server, &namespace, arguments.name.as_deref(), request))
        }
        _ => Ok(()),
    }
}

/// Whose logs are shown: the function that is named, or those that know the request.
async fn names(server: &Server, namespace: &str, arguments: &Logs) -> Result<Vec<String>, Error> {
    #[derive(serde::Deserialize)]
    struct Known {
        functions: Vec<String>,
    }
    match (&arguments.name, &arguments.request) {
        (Some(name), _) => Ok(vec![name.clone()]),
        (None, Some(request)) => {
            let path = format!("/apis/hearth.dev/v1/namespaces/{namespace}/requests/{}", encoded(request));
            let known: Known = server.get(&path).await?;
            if known.functions.is_empty() {
                return Err(unknown_request(server, namespace, None, request));
            }
            Ok(known.functions)
        }
        // The command line asks for one of them.
        (None, None) => Ok(Vec::new()),
    }
}

fn unknown_request(server: &Server, namespace: &str, name: Option<&str>, request: &str) -> Error {
    let (whose, shown) = match name {
        Some(name) => (format!("the log of function {namespace}/{name}"), name),
        None => (format!("no function in namespace {namespace}"), "NAME"),
    };
    let place = server.place(namespace);
    let verb = if name.is_some() { "knows no request" } else { "knows a request" };
    Error::fixable(
        format!("{whose} {verb} {request:?}"),
        format!(
            "the id is in the answer's x-hearth-request-id; `hearth logs --details {shown}{place}` shows those that printed something, and old lines go when the log is full"
        ),
    )
}

/// Whatever is typed must not become another parameter, or another path.
fn encoded(request: &str) -> String {
    let byte = |byte: u8| match byte {
        b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    request.bytes().map(byte).collect()
}

fn path(
    namespace: &str,
    name: &str,
    tail: Option<usize>,
    since: Option<Duration>,
    arguments: &Logs,
) -> String {
    let mut query: Vec<String> = Vec::new();
    if arguments.follow {
        query.push("follow=true".to_owned());
    }
    if let Some(request) = &arguments.request {
        query.push(format!("request={}", encoded(request)));
    }
    if let Some(tail) = tail {
        query.push(format!("tail={tail}"));
    }
    if let Some(since) = since {
        query.push(format!("sinceSeconds={}", since.as_secs()));
    }
    format!("/apis/hearth.dev/v1/namespaces/{namespace}/functions/{name}/logs?{}", query.join("&"))
}

/// Calls `each` with every line that the server sends, until it ends or `each` fails.
pub(super) async fn follow(
    server: &Server,
    path: &str,
    mut each: impl FnMut(LogLine) -> Result<(), Error>,
) -> Result<(), Error> {
    let stream = std::pin::pin!(server.stream(path).await?);
    let mut lines = stream.lines();
    while let Some(line) = lines.try_next().await.map_err(|_| super::client::broke_off("log"))? {
        if line.is_empty() {
            continue;
        }
        each(read(&line)?)?;
    }
    Ok(())
}

fn read(line: &str) -> Result<LogLine, Error> {
    serde_json::from_str(line)
        .map_err(|error| Error::failed(format!("a line of the log cannot be read: {error}")))
}

/// As [`follow`], into a channel: the next line is read when the one before was taken.
pub(super) async fn follow_into(
    server: &Server,
    path: &str,
    lines: tokio::sync::mpsc::Sender<LogLine>,
) -> Result<(), Error> {
    let stream = std::pin::pin!(server.stream(path).await?);
    let mut read = stream.lines();
    while let Ok(Some(line)) = read.try_next().await {
        // A line that cannot be read is one of a later version: the others still count.
        if let Ok(line) = serde_json::from_str(&line)
            && lines.send(line).await.is_err()
        {
            break;
        }
    }
    Ok(())
}

/// A line for people.
pub(super) fn plain(line: &LogLine, details: bool) -> String {
    let text = printable(&line.text);
    let text =
        if line.stream == "hearth" { out::paint(&format!("[hearth] {text}"), Paint::Dim) } else { text };
    if !details {
        return text;
    }
    let request = match (&line.request, line.shared) {
        (Some(request), _) => request.as_str(),
        (None, true) => "(shared)",
        (None, false) => "-",
    };
    let head = format!("{} {} {request} {}", line.time, line.instance, line.stream);
    format!("{} {text}", out::paint(&head, Paint::Dim))
}

/// Every line of an entry says whose it is: a stack has many.
pub(super) fn prefixed(function: &str, text: &str) -> String {
    let prefix = out::paint(&format!("{function} |"), Paint::Dim);
    text.trim_end_matches('\n').split('\n').map(|line| format!("{prefix} {line}\n")).collect()
}

/// A function's output must not drive the terminal: control characters but tabs and colours' escapes show as what they are. To a pipe it
/// goes unchanged.
pub(super) fn printable(text: &str) -> String {
    if !out::is_live() {
        return text.to_owned();
    }
    // A stack is one entry of several lines.
    text.split('\n').map(sanitized).collect::<Vec<_>>().join("\n")
}

fn sanitized(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if let Some(length) = color_sequence(rest) {
            let (sequence, after) = rest.split_at(length);
            clean.push_str(sequence);
            rest = after;
            continue;
        }
        if next.is_control() && next != '\t' {
            clean.extend(next.escape_default());
        } else {
            clean.push(next);
        }
        rest = rest.get(next.len_utf8()..).unwrap_or_default();
    }
    clean
}

/// Length of the colour sequence (`ESC [ digits and semicolons m`) that `text` begins with.
fn color_sequence(text: &str) -> Option<usize> {
    let after = text.strip_prefix("\u{1b}[")?;
    let end = after.find(|character: char| !(character.is_ascii_digit() || character == ';'))?;
    after.get(end..).is_some_and(|rest| rest.starts_with('m')).then_some(end + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_stack_says_whose_it_is() {
        assert_eq!(prefixed("hello", "Error: x\n    at y\n"), "hello | Error: x\nhello |     at y\n");
        assert_eq!(prefixed("hello", ""), "hello | \n");
    }

    #[test]
    fn an_id_stays_one_part_of_a_path() {
        assert_eq!(encoded("8f2c-A_1"), "8f2c-A_1");
        assert_eq!(encoded("../a?b=c"), "%2E%2E%2Fa%3Fb%3Dc");
    }

    #[test]
    fn colours_pass_and_other_control_characters_show() {
        assert_eq!(sanitized("\u{1b}[1;31mred\u{1b}[0m\tend"), "\u{1b}[1;31mred\u{1b}[0m\tend");
        assert_eq!(sanitized("a\u{1b}[2Jb\r\u{7}"), "a\\u{1b}[2Jb\\r\\u{7}");
        assert_eq!(sanitized("\u{1b}[31"), "\\u{1b}[31");
        assert_eq!(sanitized("héllo ✓"), "héllo ✓");
    }
}
