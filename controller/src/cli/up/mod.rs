//! `hearth up`: a server in this process, the functions of some files, and a table that stays current.
//!
//! ```text
//!  files ── changes ──► reload (read, pack, apply what differs) ──┐
//!  server ── functions, log lines ────────────────────────────────┼──► one loop ──► screen
//!  signals ───────────────────────────────────────────────────────┘
//! ```
//!
//! It is a client of its own server like any other. What it applied carries a label; the next `up` takes away what an earlier one
//! applied and nobody names any more. A reload loses no request: the server makes a new Revision and moves the routes when it is up.

mod feed;
mod files;
mod plain;
mod reload;
mod screen;

use std::collections::BTreeMap;

use kube::ResourceExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use hearth_function::Function;

use super::args::Up;
use super::client::Server;
use super::error::Error;
use super::manifest::{self, Manifest};
use super::server::{self, Signals};
use crate::telemetry::tracing::{Diversion, Verbosity};

use feed::{Feed, News};
use files::Files;
use reload::Reloader;
use screen::Screen;

/// News that wait for the screen. A function that prints faster than a terminal shows waits here, and its log is read on from the disk.
const NEWS: usize = 256;

/// Runs the command.
pub(super) async fn run(arguments: Up) -> Result<(), Error> {
    // Before anything starts: most mistakes are in here.
    let manifests = manifest::read_all(&arguments.paths, manifest::Sources::Needed)?;
    if manifests.is_empty() {
        return Err(Error::fixable(
            "no manifest holds a function",
            "see `hearth explain function` for what one looks like",
        ));
    }
    let mut signals = Signals::new()?;
    let (config, mut running) = server::start(&arguments.server, Verbosity::Quiet).await?;
    let kubeconfig = running.kubeconfig().to_owned();
    let outcome = tokio::select! {
        () = signals.next() => Ok(()),
        reason = running.failed() => Err(Error::failed(format!("the server cannot go on: {reason}"))),
        outcome = async {
            let server = Server::at(&kubeconfig).await?;
            present(&arguments, &server, manifests).await
        } => outcome,
    };
    server::stop(running, &config, &mut signals).await;
    outcome
}

/// Applies, shows, and goes on until it is dropped.
async fn present(arguments: &Up, server: &Server, manifests: Vec<Manifest>) -> Result<(), Error> {
    let (news, mut incoming) = mpsc::channel(NEWS);
    let mut tasks = JoinSet::new();
    let mut screen = Screen::new();
    // A line that something else wrote would break the table.
    let mut diagnostics = screen.is_live().then(Diversion::begin);
    let mut files = if arguments.no_watch { Files::none() } else { Files::new() };
    let mut reloader = Reloader::new(server.clone(), arguments.paths.clone());
    let mut functions: BTreeMap<(String, String), Function> = BTreeMap::new();

    files.follow(&arguments.paths, &manifests, &mut screen)?;
    reloader.sweep(&manifests, &mut screen).await?;
    tasks.spawn(feed::functions(server.clone(), news.clone()));
    let mut feed = Feed::new(server.clone(), news, arguments.quiet);
    reloader.begin(manifests, &mut screen);
    loop {
        tokio::select! {
            // Cancel-safe, all of them: what is not taken stays in its channel or task.
            Some(item) = incoming.recv() => match item {
                News::Function(function) => {
                    let key = (function.namespace().unwrap_or_default(), function.name_any());
                    feed.follow(&key);
                    functions.insert(key, *function);
                    screen.functions(&functions)?;
                }
                News::Deleted(key) => {
                    feed.leave(&key);
                    functions.remove(&key);
                    screen.functions(&functions)?;
                }
                News::Line(function, line) => screen.line(&function, &line)?,
                News::Lost(error) => return Err(error),
            },
            Some(line) = diagnosed(diagnostics.as_mut()) => screen.remark(line.trim_end())?,
            () = files.changed() => {
                if let Some(read) = reloader.read(&mut screen)? {
                    files.follow(&arguments.paths, &read, &mut screen)?;
                    reloader.begin(read, &mut screen);
                }
            }
            () = screen.settled() => screen.settle()?,
            done = reloader.finished() => reloader.settle(done, &functions, &mut screen)?,
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    return Err(Error::failed(format!("a part of `up` failed: {error}")));
                }
            }
        }
    }
}

/// The next line of the server's own diagnostics that is to be shown here. Cancel-safe.
async fn diagnosed(diversion: Option<&mut Diversion>) -> Option<String> {
    match diversion {
        Some(diversion) => diversion.line().await,
        None => std::future::pending().await,
    }
}
