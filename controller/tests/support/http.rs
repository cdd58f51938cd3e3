//! A small, blocking HTTP/1.1 client: a test wants to say exactly which bytes go when, and to read an answer as it comes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::PATIENCE;

/// A request to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Its method.
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// Fields beside `host` and `content-length`.
    pub(crate) headers: Vec<(String, String)>,
    /// Its body.
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// A GET.
    pub(crate) fn get(target: &str) -> Self {
        Self { method: "GET".to_owned(), target: target.to_owned(), headers: Vec::new(), body: Vec::new() }
    }

    /// A POST.
    pub(crate) fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { method: "POST".to_owned(), body: body.into(), ..Self::get(target) }
    }

    /// With one more field.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Over a connection of its own; reads the whole answer.
    pub(crate) fn send(&self, address: SocketAddr) -> io::Result<Response> {
        Connection::open(address)?.exchange(self)
    }

    fn head(&self) -> String {
        let fields: String =
            self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = match self.body.len() {
            0 => String::new(),
            length => format!("content-length: {length}\r\n"),
        };
        format!("{} {} HTTP/1.1\r\nhost: localhost\r\n{fields}{length}\r\n", self.method, self.target)
    }
}

/// A whole answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Response {
    /// Its status.
    pub(crate) status: u16,
    /// Its fields, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// Its body.
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The first field of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null when it is none.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The code of the gateway's error answer; empty when it is none.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects; reading and writing give up after [`PATIENCE`].
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends these bytes as they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Sends a request and does not wait for its answer.
    pub(crate) fn send(&mut self, request: &Request) -> io::Result<()> {
        let mut bytes = request.head().into_bytes();
        bytes.extend_from_slice(&request.body);
        self.write(&bytes)
    }

    /// Sends a request and reads its whole answer; the connection can be used again if the server keeps it.
    pub(crate) fn exchange(&mut self, request: &Request) -> io::Result<Response> {
        self.send(request)?;
        self.response()
    }

    /// Whether nothing comes from the other side for so long.
    pub(crate) fn silent_for(&mut self, time: Duration) -> bool {
        let stream = self.stream.get_ref();
        stream.set_read_timeout(Some(time)).expect("a time of more than nothing");
        let silent = stream.peek(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        stream.set_read_timeout(Some(PATIENCE)).expect("a time of more than nothing");
        silent
    }

    /// Reads a whole answer.
    pub(crate) fn response(&mut self) -> io::Result<Response> {
        let mut response = self.response_head()?;
        let mut body = Vec::new();
        self.read_body(&response, |bytes| body.extend_from_slice(bytes))?;
        response.body = body;
        Ok(response)
    }

    /// Reads an answer and counts its body without keeping it.
    pub(crate) fn response_length(&mut self) -> io::Result<(Response, u64)> {
        let response = self.response_head()?;
        let mut length = 0;
        self.read_body(&response, |bytes| length += bytes.len() as u64)?;
        Ok((response, length))
    }

    /// Reads status and fields; the body is still to come.
    pub(crate) fn response_head(&mut self) -> io::Result<Response> {
        let status = self.line()?;
        let status =
            status.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| broken(&status))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Response { status, headers, body: Vec::new() });
            }
            let (name, value) = line.split_once(':').ok_or_else(|| broken(&line))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    fn read_body(&mut self, response: &Response, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        if response.header("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
            loop {
                let line = self.line()?;
                let length = line.split(';').next().unwrap_or_default();
                let length = u64::from_str_radix(length.trim(), 16).map_err(|_| broken(&line))?;
                self.read_exactly(length, &mut take)?;
                if length == 0 {
                    while !self.line()?.is_empty() {}
                    return Ok(());
                }
                self.line()?;
            }
        }
        match response.header("content-length") {
            Some(length) => self.read_exactly(length.parse().map_err(|_| broken(length))?, &mut take),
            None if matches!(response.status, 204 | 304) => Ok(()),
            None => loop {
                let bytes = self.stream.fill_buf()?;
                let length = bytes.len();
                if length == 0 {
                    return Ok(());
                }
                take(bytes);
                self.stream.consume(length);
            },
        }
    }

    fn read_exactly(&mut self, mut length: u64, take: &mut impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        while length > 0 {
            let wanted = usize::try_from(length).unwrap_or(usize::MAX).min(buffer.len());
            let read = self.stream.read(&mut buffer[..wanted])?;
            if read == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("{length} bytes of the body are missing"),
                ));
            }
            take(&buffer[..read]);
            length -= read as u64;
        }
        Ok(())
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed"));
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP: {what:?}"))
}
