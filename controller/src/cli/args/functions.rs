//! What is done with functions: what can be typed.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Format, ListFormat, Output, Place, duration};

/// `hearth apply`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth apply -f hello/function.yaml
  hearth apply -f functions/               every manifest of a directory
  generate | hearth apply -f -             from standard input
  hearth apply -f hello --no-wait          do not wait until it is ready

`source.path` in a manifest is read here, relative to the manifest's file, and uploaded; the server never reads a path of yours.")]
pub(in crate::cli) struct Apply {
    /// Manifest, directory of manifests, or - for standard input
    #[arg(short, long = "filename", value_name = "FILE|DIR|-", required = true)]
    pub(in crate::cli) filename: Vec<PathBuf>,
    /// Wait until the functions are ready (the default)
    #[arg(long, overrides_with = "no_wait")]
    pub(in crate::cli) wait: bool,
    /// Return when the server has taken the functions
    #[arg(long, overrides_with = "wait")]
    pub(in crate::cli) no_wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub(in crate::cli) timeout: std::time::Duration,
    /// Print the resulting objects
    #[arg(short, long, value_enum)]
    pub(in crate::cli) output: Option<Format>,
    /// Where the functions are.
    #[command(flatten)]
    pub(in crate::cli) place: Place,
}

/// `hearth convert`.
#[derive(Debug, Args)]
#[command(after_help = "\
What cannot be honoured is named in a warning on standard error. `hearth apply -f` takes Knative Services as they are.

Examples:
  hearth convert -f service.yaml > function.yaml
  kubectl get ksvc hello -o yaml | hearth convert -f -")]
pub(in crate::cli) struct Convert {
    /// Manifest, or directory of manifests; - is standard input
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    pub(in crate::cli) filename: Vec<PathBuf>,
    /// Namespace of those that name none
    #[arg(short, long, value_name = "NAME")]
    pub(in crate::cli) namespace: Option<String>,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Format::Yaml, value_name = "FORMAT")]
    pub(in crate::cli) output: Format,
}

/// What can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Resource {
    /// What users declare
    #[value(name = "functions", alias = "function", alias = "fn")]
    Functions,
    /// Snapshots of functions
    #[value(name = "revisions", alias = "revision", alias = "rev")]
    Revisions,
    /// Containers that run now
    #[value(name = "instances", alias = "instance")]
    Instances,
}

/// `hearth get`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth get functions                     in namespace default
  hearth get fn -A -o wide                 in all namespaces, more columns
  hearth get function hello -o yaml        one, whole
  hearth get revisions -w                  and go on with changes")]
pub(in crate::cli) struct Get {
    /// What to list: functions (fn), revisions or instances
    #[arg(value_enum, hide_possible_values = true)]
    pub(in crate::cli) resource: Resource,
    /// Only the one of this name
    pub(in crate::cli) name: Option<String>,
    /// Go on and print changes
    #[arg(short, long)]
    pub(in crate::cli) watch: bool,
    /// In all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub(in crate::cli) all_namespaces: bool,
    /// Form of the output
    #[arg(short, long, value_enum)]
    pub(in crate::cli) output: Option<ListFormat>,
    /// Where the functions are.
    #[command(flatten)]
    pub(in crate::cli) place: Place,
}

/// `hearth describe`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth describe function hello
  hearth describe hello -o json")]
pub(in crate::cli) struct Describe {
    /// `function NAME`, or just NAME; `revision NAME`
    #[arg(required = true, num_args = 1..=2, value_names = ["function", "NAME"])]
    pub(in crate::cli) what: Vec<String>,
    /// How it is printed.
    #[command(flatten)]
    pub(in crate::cli) output: Output,
    /// Where the functions are.
    #[command(flatten)]
    pub(in crate::cli) place: Place,
}

/// `hearth delete`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth delete function hello
  hearth delete -f functions/              every function the manifests name")]
pub(in crate::cli) struct Delete {
    /// `function NAME…`, or just NAME
    #[arg(num_args = 0.., value_names = ["function", "NAME"], required_unless_present = "filename", conflicts_with = "filename")]
    pub(in crate::cli) what: Vec<String>,
    /// Manifest, directory of manifests, or - for standard input
    #[arg(short, long = "filename", value_name = "FILE|DIR|-")]
    pub(in crate::cli) filename: Vec<PathBuf>,
    /// It is no error when a function is not there
    #[arg(long)]
    pub(in crate::cli) ignore_not_found: bool,
    /// Where the functions are.
    #[command(flatten)]
    pub(in crate::cli) place: Place,
}

/// `hearth invoke`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth invoke hello                              GET /
  hearth invoke hello -d '{\"name\":\"Ada\"}'          POST / with this body
  hearth invoke hello -d @event.json               the body from a file, -d @- or -d - from standard input
  hearth invoke hello --path /items/7 --method DELETE --header 'x-key: 1'

Prints the answer's body; exits with 1 when the answer's status is 400 or more.")]
pub(in crate::cli) struct Invoke {
    /// The function
    pub(in crate::cli) name: String,
    /// Body: text, @FILE, or - for standard input
    #[arg(short, long, value_name = "DATA|@FILE|-", allow_hyphen_values = true)]
    pub(in crate::cli) data: Option<String>,
    /// Path and query that the function sees
    #[arg(long, default_value = "/")]
    pub(in crate::cli) path: String,
    /// Method [default: GET, or POST with a body]
    #[arg(long, short = 'X')]
    pub(in crate::cli) method: Option<String>,
    /// A request header, as in 'content-type: text/plain'
    #[arg(long, short = 'H', value_name = "NAME: VALUE")]
    pub(in crate::cli) header: Vec<String>,
    /// Print status and headers of the answer before the body
    #[arg(short, long)]
    pub(in crate::cli) include: bool,
    /// Print status, headers and body as one object
    #[arg(short, long, value_enum)]
    pub(in crate::cli) output: Option<Format>,
    /// Where the functions are.
    #[command(flatten)]
    pub(in crate::cli) place: Place,
}

/// `hearth logs`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth logs hello                        what is kept
  hearth logs -f --tail 10 hello           the last ten lines and what comes
  hearth logs --request 8f2c…              the lines of one call: its answer's x-hearth-request-id")]
pub(in crate::cli) struct Logs {
    /// The function; with --request every one that knows the request, if none is named
    #[arg(required_unless_present = "request")]
    pub(in crate::cli) name: Option<String>,
    /// Go on with new lines
    #[arg(short, long)]
    pub(in crate::cli) follow: bool,
    /// Only lines of this request
    #[arg(long, value_name = "ID")]
    pub(in crate::cli) request: Option<String>,
    /// Only the last N lines of those that are there
    #[arg(long, value_name = "N")]
    pub(in crate::cli) tail: Option<usize>,
    /// Only lines of the last while, as in 10m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(in crate::cli) since: Option<std::time::Duration>,
    /// Show time, instance and request of each line
    #[arg(long)]
    pub(in crate::cli) details: bool,
    /// Form of the output: json is an object each line
    #[arg(short, long, value_enum)]
    pub(in crate::cli) output: Option<Format>,
    /// Where the functions are.
    #[command(flatten)]
    pub(in crate::cli) place: Place,
}

/// `hearth top`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth top -w                            the whole server, with its pools
  hearth top -n team                       what the functions of a namespace have of it")]
pub(in crate::cli) struct Top {
    /// In all namespaces, with the pools, which are no function's yet (the default)
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub(in crate::cli) all_namespaces: bool,
    /// Go on, once a second
    #[arg(short, long)]
    pub(in crate::cli) watch: bool,
    /// Form of the output
    #[arg(short, long, value_enum)]
    pub(in crate::cli) output: Option<Format>,
    /// Where the functions are.
    #[command(flatten)]
    pub(in crate::cli) place: Place,
}

/// `hearth init`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth init hello --runtime nodejs && hearth up hello
  hearth init words --runtime exec

The directory NAME gets a manifest and the code; what is there already is never changed.")]
pub(in crate::cli) struct Init {
    /// The function, and its directory
    pub(in crate::cli) name: String,
    /// What runs it
    #[arg(long, value_enum, default_value = "nodejs")]
    pub(in crate::cli) runtime: Template,
}

/// A template of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Template {
    /// A handler in Node.js
    Nodejs,
    /// A handler in Python
    Python,
    /// A server of its own, in Python
    Http,
    /// A program for each call, in sh
    Exec,
}
