//! A controller at the other end of report connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Instant;

use bytes::BytesMut;
use hearth_protocol::ShimConfig;
use hearth_protocol::report::{FromShim, Mount, Purpose, ToShim, VERSION, decode, encode};

use crate::client::{PATIENCE, Shim, pause};

const TOKEN: &str = "the token of this instance";

pub(crate) struct Controller {
    listener: TcpListener,
}

/// A tar and its digest.
pub(crate) struct Tar {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: String,
}

impl Tar {
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        Self::from(tar.into_inner().unwrap())
    }

    pub(crate) fn at(&self, directory: &Path) -> Mount {
        let at = directory.to_string_lossy().into_owned();
        Mount { digest: self.digest.clone(), bytes: self.bytes.len() as u64, at }
    }
}

impl From<Vec<u8>> for Tar {
    fn from(bytes: Vec<u8>) -> Self {
        use sha2::Digest as _;
        let hex: String = sha2::Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { digest: format!("sha256:{hex}"), bytes }
    }
}

/// A connection and what its hello said.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    buffer: BytesMut,
    pub(crate) purpose: Purpose,
}

impl Controller {
    pub(crate) fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    pub(crate) fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("HEARTH_REPORT", self.listener.local_addr().unwrap().to_string()),
            ("HEARTH_INSTANCE", "test".to_owned()),
            ("HEARTH_TOKEN", TOKEN.to_owned()),
            ("HEARTH_INVOKE_PORT", "0".to_owned()),
            ("HEARTH_CONTROL_PORT", "0".to_owned()),
        ]
    }

    /// The next connection.
    pub(crate) fn accept(&self) -> Peer {
        self.listener.set_nonblocking(true).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match self.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    assert!(Instant::now() < deadline, "the shim does not connect");
                    pause();
                }
                Err(error) => panic!("{error}"),
            }
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut peer =
            Peer { stream, buffer: BytesMut::new(), purpose: Purpose::Fetch { digest: String::new() } };
        match peer.hear() {
            Some(FromShim::Hello(hello)) => {
                assert_eq!((hello.version, &*hello.instance, &*hello.token), (VERSION, "test", TOKEN));
                peer.purpose = hello.purpose;
            }
            other => panic!("{other:?}"),
        }
        peer
    }

    /// The next connection, which is a report.
    pub(crate) fn accept_report(&self, shim: &Shim, running: bool) -> Peer {
        let peer = self.accept();
        match peer.purpose {
            Purpose::Report { running: told, invoke, control } if told == running => {
                shim.listens(invoke, control);
                peer
            }
            ref other => panic!("{other:?}"),
        }
    }

    /// Starts the instance with these tars at these places below its directory; its report connection.
    pub(crate) fn start(&self, shim: &Shim, config: ShimConfig, tars: &[(&Tar, &str)]) -> Peer {
        let mut report = self.accept_report(shim, false);
        let mounts = tars.iter().map(|(tar, name)| tar.at(&shim.directory.path().join(name))).collect();
        report.say(&ToShim::Start { config: Box::new(config), mounts });
        for (tar, _) in tars {
            self.accept().gives(tar);
        }
        assert_eq!(report.hear(), Some(FromShim::Mounted { number: 0, error: None }));
        report
    }

    /// Nobody listens any more.
    pub(crate) fn go(self) {}
}

impl Peer {
    pub(crate) fn say(&mut self, message: &ToShim) {
        let mut bytes = BytesMut::new();
        encode(message, &mut bytes).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next message; `None` at the end.
    pub(crate) fn hear(&mut self) -> Option<FromShim> {
        loop {
            if let Some(message) = decode(&mut self.buffer).unwrap() {
                return Some(message);
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece).unwrap() {
                0 => return None,
                read => self.buffer.extend_from_slice(&piece[..read]),
            }
        }
    }

    /// Answers a fetch of this tar.
    pub(crate) fn gives(mut self, tar: &Tar) {
        assert_eq!(self.purpose, Purpose::Fetch { digest: tar.digest.clone() });
        self.gives_bytes(tar, &tar.bytes);
    }

    /// Answers it with something else.
    pub(crate) fn gives_bytes(&mut self, tar: &Tar, bytes: &[u8]) {
        self.say(&ToShim::Blob { bytes: tar.bytes.len() as u64 });
        // Who has seen enough does not read on.
        self.stream.write_all(bytes).ok();
    }

    /// The tar that follows a result's hello.
    pub(crate) fn takes(&mut self) -> Tar {
        let Purpose::Result { digest, bytes } = &self.purpose else { panic!("{:?}", self.purpose) };
        let mut tar = self.buffer.split().to_vec();
        let mut rest = vec![0; usize::try_from(*bytes).unwrap() - tar.len()];
        self.stream.read_exact(&mut rest).unwrap();
        tar.extend(rest);
        let tar = Tar::from(tar);
        assert_eq!(tar.digest, *digest);
        tar
    }
}
