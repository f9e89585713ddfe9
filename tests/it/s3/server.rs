//! `moto_server`, an S3 server that keeps its buckets in memory, and plain requests to it, behind recoup's back.

use crate::support::program;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};

/// The server wants to see a signature, and does not look at it.
const SIGNED: &str = "Authorization: AWS4-HMAC-SHA256 Credential=TEST/20261122/us-east-1/s3/aws4_request, \
    SignedHeaders=host, Signature=0";

/// A running server. Stopped when dropped; the kernel stops it if the test is killed.
pub(crate) struct S3Server {
    child: Child,
    address: String,
}

impl S3Server {
    /// Starts one on a free port of the loopback interface.
    pub(crate) fn start(dir: &Path) -> Self {
        S3Server::start_with(dir, &[])
    }

    /// The same over TLS, with a certificate and its key. Only recoup can speak to it.
    pub(crate) fn start_secure(dir: &Path, certificate: &str, key: &str) -> Self {
        S3Server::start_with(dir, &["-c", certificate, "-k", key])
    }

    fn start_with(dir: &Path, arguments: &[&str]) -> Self {
        let mut command: Command = program("setpriv", dir);
        command.args(["--pdeathsig", "KILL", "moto_server", "-H", "127.0.0.1", "-p", "0"]).args(arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map(Result::unwrap)
            .find_map(|line| Some(line.split_once("Running on ")?.1.split_once("://")?.1.trim().to_owned()));
        // It goes on writing a line for every request, and would stop when nobody read them.
        std::thread::spawn(move || lines.for_each(drop));
        S3Server { child, address: address.expect("the server says where it listens") }
    }

    /// Host and port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The URL to give to recoup.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes a bucket.
    pub(crate) fn make_bucket(&self, bucket: &str) {
        self.request("PUT", &format!("/{bucket}"), b"");
    }

    /// Puts an object there, whatever was there.
    pub(crate) fn put(&self, key: &str, bytes: &[u8]) {
        self.request("PUT", &format!("/{key}"), bytes);
    }

    pub(crate) fn get(&self, key: &str) -> Vec<u8> {
        self.request("GET", &format!("/{key}"), b"")
    }

    pub(crate) fn delete(&self, key: &str) {
        self.request("DELETE", &format!("/{key}"), b"");
    }

    /// All keys of a bucket, each with the bucket's name before it.
    pub(crate) fn keys(&self, bucket: &str) -> Vec<String> {
        let listing = String::from_utf8(self.request("GET", &format!("/{bucket}?list-type=2"), b"")).unwrap();
        let keys = listing.split("<Key>").skip(1).map(|rest| rest.split_once("</Key>").unwrap().0);
        keys.map(|key| format!("{bucket}/{key}")).collect()
    }

    /// A request and the body of its answer.
    fn request(&self, verb: &str, target: &str, body: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = format!(
            "{verb} {target} HTTP/1.1\r\nHost: {}\r\n{SIGNED}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("an answer has a head");
        let head = String::from_utf8_lossy(&answer[..end]);
        assert!(head.starts_with("HTTP/1.1 20"), "{verb} {target}: {head}");
        answer.split_off(end + 4)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
