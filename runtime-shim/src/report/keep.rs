//! The report connection from the start to the end: orders come in, answers go out, and when it breaks it is made again.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::Exit;
use hearth_protocol::report::{FromShim, ToShim};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::link::{Link, Pauses};
use super::{Caller, Trouble, fetch, result};
use crate::control::Control;
use crate::supervisor::Shim;

/// Orders to unpack that may be under way or unanswered; one more is refused.
const MAX_ORDERS: usize = 4;

/// How long the end tries to be told to a controller. It sees the container's end besides.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long a job's result tries to get to one, in all: without it the job was for nothing.
const DELIVERY: Duration = Duration::from_secs(600);

/// A report connection at the instance's start.
#[derive(Debug)]
pub(crate) struct Reporting {
    caller: Arc<Caller>,
    link: Link,
    ports: (u16, u16),
    build: Option<PathBuf>,
}

/// One that is kept.
#[derive(Debug)]
pub(crate) struct Kept {
    caller: Arc<Caller>,
    build: Option<PathBuf>,
    end: RefCell<Option<oneshot::Sender<Exit>>>,
    state: watch::Receiver<State>,
}

/// What became of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// It is there.
    Up,
    /// It is made again.
    Down,
    /// The instance is not wanted any more, for this reason.
    Refused(String),
    /// The end was told.
    Told,
}

impl Reporting {
    pub(super) fn new(caller: Arc<Caller>, link: Link, ports: (u16, u16), build: Option<PathBuf>) -> Self {
        Self { caller, link, ports, build }
    }

    /// Keeps it, in a task of `background`.
    pub(crate) fn keep(self, shim: &Rc<Shim>, control: &Control, background: &mut JoinSet<()>) -> Kept {
        let Self { caller, link, ports, build } = self;
        let (end, ends) = oneshot::channel();
        let (sender, state) = watch::channel(State::Up);
        let keeper = Keeper {
            caller: Arc::clone(&caller),
            shim: Rc::clone(shim),
            ports,
            orders: JoinSet::new(),
            answers: VecDeque::new(),
            end: ends,
            exit: None,
        };
        let present = control.reporting();
        background.spawn_local(async move {
            let told = |state: State| {
                present(state == State::Up);
                sender.send_replace(state);
            };
            told(keeper.run(link, &told).await);
        });
        Kept { caller, build, end: RefCell::new(Some(end)), state }
    }
}

impl Kept {
    /// Waits until the controller says that it does not want the instance; why.
    pub(crate) async fn refused(&self) -> String {
        let mut state = self.state.clone();
        let refused =
            state.wait_for(|state| matches!(state, State::Refused(_))).await.map(|state| state.clone());
        match refused {
            Ok(State::Refused(reason)) => reason,
            // The end was told.
            _ => std::future::pending().await,
        }
    }

    /// Brings a job's result to the controller. A job whose result did not arrive has failed.
    pub(crate) async fn deliver(&self, shim: &Shim, exit: Exit) -> Exit {
        let Some(build) = &self.build else { return exit };
        let why = match timeout(DELIVERY, result::deliver(&self.caller, build)).await {
            Ok(Ok(())) => return exit,
            Ok(Err(why)) => why,
            Err(_) => "no controller has taken it".to_owned(),
        };
        shim.logs.say(&format!("the job's result was not taken: {why}"));
        if exit.code == Some(0) { Exit { code: Some(1), ..exit } } else { exit }
    }

    /// Tells the end. When that was `asked` for, nobody is looked for who might want to know.
    pub(crate) async fn farewell(self, exit: Exit, asked: bool) {
        if let Some(end) = self.end.borrow_mut().take() {
            // Nobody listens any more where the instance was refused.
            end.send(exit).ok();
        }
        let mut state = self.state;
        let over = |state: &State| match state {
            State::Up => false,
            State::Down => asked,
            State::Refused(_) | State::Told => true,
        };
        timeout(FAREWELL, state.wait_for(over)).await.ok();
    }
}

/// The task that keeps a connection.
struct Keeper {
    caller: Arc<Caller>,
    shim: Rc<Shim>,
    ports: (u16, u16),
    /// What is being unpacked.
    orders: JoinSet<FromShim>,
    /// What was unpacked and is not told yet.
    answers: VecDeque<FromShim>,
    end: oneshot::Receiver<Exit>,
    exit: Option<Exit>,
}

/// Why a connection is over.
enum Over {
    Broken,
    Refused(String),
    Told,
}

impl Keeper {
    async fn run(mut self, first: Link, told: &impl Fn(State)) -> State {
        let mut link = first;
        loop {
            told(State::Up);
            match self.serve(link).await {
                Over::Told => return State::Told,
                Over::Refused(reason) => return State::Refused(reason),
                Over::Broken => told(State::Down),
            }
            link = match self.again().await {
                Ok(link) => link,
                Err(reason) => return State::Refused(reason),
            };
        }
    }

    /// Connects until it is known again; an error is that it is not wanted.
    async fn again(&self) -> Result<Link, String> {
        let mut pauses = Pauses::default();
        loop {
            let trouble = match Link::report(&self.caller, self.ports, true).await {
                Ok((link, ToShim::GoOn)) => return Ok(link),
                Ok((_, other)) => Trouble::of(Some(other)),
                Err(trouble) => trouble,
            };
            if let Trouble::Final(reason) = trouble {
                return Err(reason);
            }
            pauses.wait().await;
        }
    }

    async fn serve(&mut self, mut link: Link) -> Over {
        loop {
            while let Some(answer) = self.answers.front() {
                if link.send(answer).await.is_err() {
                    return Over::Broken;
                }
                self.answers.pop_front();
            }
            if let Some(exit) = self.exit {
                if link.send(&FromShim::Ended { exit }).await.is_err() {
                    return Over::Broken;
                }
                link.close().await;
                return Over::Told;
            }
            // All three are cancel-safe.
            tokio::select! {
                message = link.next() => match message {
                    Ok(Some(ToShim::Mount { number, mounts })) => self.order(number, mounts),
                    Ok(Some(ToShim::End)) => self.shim.ask_to_stop(),
                    Ok(Some(ToShim::Refused { reason })) => return Over::Refused(reason),
                    // It is the leader no more.
                    Ok(Some(ToShim::Elsewhere)) => return Over::Broken,
                    // Nothing else means anything here.
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return Over::Broken,
                },
                Some(answer) = self.orders.join_next() => self.answers.extend(answer),
                exit = &mut self.end, if self.exit.is_none() => self.exit = Some(exit.unwrap_or_default()),
            }
        }
    }

    fn order(&mut self, number: u32, mounts: Vec<hearth_protocol::report::Mount>) {
        if self.orders.len() + self.answers.len() >= MAX_ORDERS {
            let error = Some("too much is being unpacked already".to_owned());
            self.answers.push_back(FromShim::Mounted { number, error });
            return;
        }
        let (caller, shim) = (Arc::clone(&self.caller), Rc::clone(&self.shim));
        self.orders.spawn_local(async move {
            let error = fetch::place(&caller, mounts).await.err();
            if let Some(error) = &error {
                shim.logs.say(error);
            }
            FromShim::Mounted { number, error }
        });
    }
}
