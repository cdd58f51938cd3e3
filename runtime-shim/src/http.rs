//! The `http` runtime: the user's own server, on `$PORT` of the instance's loopback.
//!
//! `load` starts it and waits until it accepts; attached connections become TCP connections to it, byte for byte, so that keep-alive,
//! streaming, back-pressure and upgrades are the server's own. A server that ends before it accepts is a failed load, with the last lines
//! it printed; one that ends later is the instance's end. A ping is answered when the server answers something: the shim can tell that it
//! runs itself, but not whether the server does.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use hearth_protocol::bodies::error_type;
use hearth_protocol::{CallError, Exit, Frame, Load, Loaded, LogStream, Role, Signature, Welcome};
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::logs::Owner;
use crate::process::{Input, Program, Running};
use crate::socket::{Accepting, Listener, Reader, Stream, Writer};
use crate::supervisor::{Shim, to_the_end};
use crate::wire::{self, Error, Greeted};

/// Where the server listens when its environment does not say: what most platforms promise.
const DEFAULT_PORT: u16 = 8080;

/// Pause between two looks whether the server accepts.
const RETRY: Duration = Duration::from_millis(2);

/// Buffer per direction of an attached connection.
const COPY_BYTES: usize = 16 * 1024;

/// Time for an answer that begins when its call was given up already: an upgraded connection may be closed one way and be of use the other.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// How long an accept that failed is not tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a server that just ended may take to be read to its last line.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What a server is asked to see whether it answers: the request that is meant for that (RFC 9110, 9.3.7).
const PROBE: &[u8] =
    b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\nuser-agent: hearth\r\nconnection: close\r\n\r\n";

/// How long an answer to it is waited for: longer than any caller waits for a pong.
const PROBE_TIME: Duration = Duration::from_secs(60);

/// Pings whose answers a connection waits for; one more gets none.
const MAX_PROBES: usize = 4;

/// A server that was asked for, and who wants to know how that went.
type Start = (Load, oneshot::Sender<Loaded>);

struct Server {
    port: Cell<u16>,
    loaded: Cell<bool>,
    /// Whether a `load` was ever taken.
    asked: Cell<bool>,
    start: RefCell<Option<mpsc::Sender<Start>>>,
}

/// Serves `invoke.sock` and, once it is loaded, runs the server to its end.
pub(crate) async fn run(shim: &Rc<Shim>, command: &[String], invoke: Listener) -> io::Result<Exit> {
    let listener = invoke.accepting()?;
    let (start, mut starts) = mpsc::channel(1);
    let server = Rc::new(Server {
        port: Cell::new(0),
        loaded: Cell::new(false),
        asked: Cell::new(false),
        start: RefCell::new(Some(start)),
    });
    let mut accepting = JoinSet::new();
    accepting.spawn_local(accept(Rc::clone(shim), Rc::clone(&server), listener));
    let (load, answer) = tokio::select! {
        Some(start) = starts.recv() => start,
        () = shim.stopped() => return Ok(Exit { code: Some(0), ..Exit::default() }),
    };
    let (program, port) = program(shim, command, load);
    server.port.set(port);
    let Running { group, stdout, stderr, mut ended, .. } = match shim.processes.start(program) {
        Ok(running) => running,
        Err(error) => {
            let name = command.first().map_or("", String::as_str);
            let error = CallError::new(error_type::PROCESS_ENDED, format!("cannot start {name}: {error}"));
            answer.send(Loaded::Error(error)).ok();
            shim.stopped().await;
            return Ok(Exit { code: Some(127), ..Exit::default() });
        }
    };
    let mut pumps = JoinSet::new();
    // Which request a line belongs to is the server's secret, even where only one runs: the shim does not read HTTP.
    let owner = if shim.config.concurrency > 1 { Owner::Shared } else { Owner::Nobody };
    for (pipe, stream) in [(stdout, LogStream::Stdout), (stderr, LogStream::Stderr)] {
        pumps.spawn_local(shim.logs.clone().pump_lines(pipe, stream, owner.clone(), None));
    }
    tokio::select! {
        () = accepts(port) => {
            server.loaded.set(true);
            answer.send(Loaded::Ok { signature: Signature::Http }).ok();
        }
        exit = &mut ended => {
            let exit = exit.unwrap_or_default();
            group.signal(Signal::KILL);
            timeout(LAST_WORDS, async { while pumps.join_next().await.is_some() {} }).await.ok();
            answer.send(Loaded::Error(ended_early(shim, exit, port))).ok();
            // Whoever asked reads the answer and ends the instance.
            timeout(Duration::from_secs(1), shim.stopped()).await.ok();
            return Ok(exit);
        }
        () = shim.stopped() => {}
    }
    Ok(to_the_end(shim, group, ended, &mut pumps).await)
}

fn ended_early(shim: &Shim, exit: Exit, port: u16) -> CallError {
    let message = format!("the server ended ({exit}) before it accepted connections on port {port} ($PORT)");
    CallError { lines: shim.logs.last_lines(None), ..CallError::new(error_type::PROCESS_ENDED, message) }
}

fn program(shim: &Shim, command: &[String], load: Load) -> (Program, u16) {
    let config = &shim.config;
    let mut env = config.env.clone();
    env.extend(load.env);
    let port = env.get("PORT").and_then(|port| port.parse().ok()).unwrap_or(DEFAULT_PORT);
    env.insert("PORT".to_owned(), port.to_string());
    let program = Program {
        command: command.iter().map(OsString::from).collect(),
        env: env.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        working_directory: config.working_directory.clone(),
        uid: config.uid,
        gid: config.gid,
        inherited: Vec::new(),
        input: Input::Nothing,
    };
    (program, port)
}

/// Connects to the server; some listen on one family alone.
async fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = match TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
        Ok(stream) => stream,
        Err(error) => match TcpStream::connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await {
            Ok(stream) => stream,
            Err(_) => return Err(error),
        },
    };
    // A connect to a port that nobody listens on can meet itself, if the kernel gives it that very port to come from.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Waits until the server accepts.
async fn accepts(port: u16) {
    while connect(port).await.is_err() {
        sleep(RETRY).await;
    }
}

/// Waits until the server answers anything, if only by closing the connection; `false` when it does not even accept. One that was told to end
/// need not accept any more while it ends its requests.
async fn answers(shim: &Shim, server: &Server) -> bool {
    if !server.loaded.get() {
        return true;
    }
    let Ok(mut stream) = connect(server.port.get()).await else { return shim.is_ending() };
    // An error is that it has closed the connection, which is an answer.
    if stream.write_all(PROBE).await.is_ok() {
        stream.read_u8().await.ok();
    }
    true
}

async fn accept(shim: Rc<Shim>, server: Rc<Server>, listener: Accepting) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(stream) => {
                    connections.spawn_local(serve(Rc::clone(&shim), Rc::clone(&server), stream));
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(shim: Rc<Shim>, server: Rc<Server>, stream: Stream) {
    let roles = [Role::Invoke, Role::Attach];
    let Some(greeted) = wire::greet(stream, &shim.config.secret, &roles).await else { return };
    if greeted.hello.role == Role::Attach {
        // A connection that breaks is its two ends' matter.
        attach(&shim, &server, greeted).await.ok();
        return;
    }
    let Greeted { version, mut incoming, mut writer, mut connection, .. } = greeted;
    let signature = server.loaded.get().then_some(Signature::Http);
    let instance = shim.config.instance.clone();
    let welcome = Frame::Welcome(Welcome { version, instance, served: shim.served.get(), signature });
    let result: Result<(), Error> = async {
        connection.from_instance(welcome.outline())?;
        wire::send(&mut writer, &welcome).await?;
        let mut probes = JoinSet::new();
        let mut told = false;
        loop {
            // All are cancel-safe.
            let frame = tokio::select! {
                frame = incoming.next() => match frame? {
                    Some(frame) => frame,
                    None => return Ok(()),
                },
                Some(Ok(answered)) = probes.join_next() => {
                    if let Some(bytes) = answered {
                        let pong = Frame::Pong(bytes);
                        connection.from_instance(pong.outline())?;
                        wire::send(&mut writer, &pong).await?;
                    }
                    continue;
                }
                // Another may be needed while it runs its last calls.
                () = shim.stopped(), if !told => {
                    told = true;
                    connection.from_instance(Frame::Drain.outline())?;
                    wire::send(&mut writer, &Frame::Drain).await?;
                    continue;
                }
            };
            connection.from_caller(frame.outline())?;
            let answer = match frame {
                Frame::Ping(bytes) => {
                    if probes.len() < MAX_PROBES {
                        let (shim, server) = (Rc::clone(&shim), Rc::clone(&server));
                        probes.spawn_local(async move {
                            timeout(PROBE_TIME, answers(&shim, &server)).await.ok()?.then_some(bytes)
                        });
                    }
                    continue;
                }
                Frame::Load(load) => Frame::Loaded(start(&server, load).await),
                Frame::Drain => {
                    shim.ask_to_stop();
                    continue;
                }
                Frame::Invoke { stream, .. } => {
                    let why = "calls to a server come over attached connections";
                    Frame::Error { stream, error: CallError::new(error_type::NOT_SERVED, why) }
                }
                // Of a call that was answered with an error.
                _ => continue,
            };
            connection.from_instance(answer.outline())?;
            wire::send(&mut writer, &answer).await?;
        }
    }
    .await;
    if let Err(Error::Protocol(why)) = result {
        wire::refuse(&mut writer, error_type::PROTOCOL, &why).await;
    }
}

async fn start(server: &Server, load: Load) -> Loaded {
    if server.asked.replace(true) {
        return Loaded::Error(CallError::new(error_type::ALREADY_LOADED, "the server was started before"));
    }
    let (answer, started) = oneshot::channel();
    let sender = server.start.borrow_mut().take();
    if let Some(sender) = sender {
        // The channel holds one, and this is the only one ever sent.
        sender.try_send((load, answer)).ok();
    }
    let gone = || Loaded::Error(CallError::new(error_type::PROCESS_ENDED, "the instance is ending"));
    started.await.unwrap_or_else(|_| gone())
}

async fn attach(shim: &Shim, shared: &Server, greeted: Greeted) -> io::Result<()> {
    let Greeted { incoming, mut writer, .. } = greeted;
    let ending = "the instance is to end and takes no new calls";
    if shim.is_ending() {
        wire::refuse(&mut writer, error_type::ENDING, ending).await;
        return Ok(());
    }
    if !shared.loaded.get() {
        wire::refuse(&mut writer, error_type::NOT_LOADED, "the server was not started yet").await;
        return Ok(());
    }
    let mut server = match connect(shared.port.get()).await {
        Ok(server) => server,
        // It was told while this went on.
        Err(_) if shim.is_ending() => {
            wire::refuse(&mut writer, error_type::ENDING, ending).await;
            return Ok(());
        }
        Err(error) => {
            let why = format!("the server does not accept connections: {error}");
            wire::refuse(&mut writer, error_type::PROCESS_ENDED, &why).await;
            return Ok(());
        }
    };
    wire::send(&mut writer, &Frame::Accept { stream: 0 }).await?;
    let (gateway, early) = incoming.into_reader();
    if !early.is_empty() {
        server.write_all(&early).await?;
    }
    carry(gateway, writer, server).await
}

/// Carries bytes both ways. A gateway that has shut down its side waits for no answer any more, but for the end of the call; and that is what
/// the server does next, as far as anybody sees: it closes its side, or it answers. Then both are closed, so that an answer that goes on
/// finds nobody to be written to.
async fn carry(from_gateway: Reader, mut to_gateway: Writer, server: TcpStream) -> io::Result<()> {
    let (from_server, mut to_server) = server.into_split();
    let given_up = Cell::new(false);
    let answers = Notify::new();
    let up = async {
        let mut from = BufReader::with_capacity(COPY_BYTES, from_gateway);
        tokio::io::copy_buf(&mut from, &mut to_server).await?;
        given_up.set(true);
        to_server.shutdown().await
    };
    let down = async {
        let mut from = BufReader::with_capacity(COPY_BYTES, from_server);
        loop {
            let bytes = from.fill_buf().await?;
            if bytes.is_empty() {
                return to_gateway.shutdown().await;
            }
            if given_up.get() {
                answers.notify_one();
            }
            to_gateway.write_all(bytes).await?;
            let length = bytes.len();
            from.consume(length);
        }
    };
    let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
    // Neither is polled again after its end.
    tokio::select! {
        ended = &mut down => {
            ended?;
            return up.await;
        }
        ended = &mut up => ended?,
    }
    let answered = async {
        answers.notified().await;
        sleep(LAST_ANSWER).await;
    };
    tokio::select! {
        ended = down => ended,
        () = answered => Ok(()),
    }
}
