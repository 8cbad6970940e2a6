//! The floor: the same objects, each by one GET whose answer is passed on into one PUT, by a client that does
//! nothing else. Nothing is listed, signed, hashed, compared or noted; the URLs are signed beforehand.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use crate::Result;

/// Threads, each with a connection to either side: as many requests at once as ours begins with.
const THREADS: usize = 16;
/// Read and passed on at once.
const BUFFER_BYTES: usize = 128 << 10;

/// What is to be moved.
#[derive(Serialize, Deserialize)]
pub struct Job {
    /// `HOST:PORT` of the bucket and of the container.
    pub from: String,
    pub to: String,
    /// Paths and queries, as they go into requests: of the object and of the blob.
    pub objects: Vec<(String, String)>,
}

/// Moves all of the job in a file.
pub fn measure(job: &Path) -> Result<()> {
    let job: Job = serde_json::from_slice(&std::fs::read(job)?)?;
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| work(&job, &next))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread broke down")?)
    })
    .map_err(|e: String| e.into())
}

fn work(job: &Job, next: &AtomicUsize) -> std::result::Result<(), String> {
    let all = || {
        let (mut from, mut to) = (TcpStream::connect(&job.from)?, TcpStream::connect(&job.to)?);
        from.set_nodelay(true)?;
        to.set_nodelay(true)?;
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Some((get, put)) = job.objects.get(next.fetch_add(1, Ordering::Relaxed)) {
            write!(from, "GET {get} HTTP/1.1\r\nHost: {}\r\n\r\n", job.from)?;
            let (end, came, length) = head(&mut from, &mut buffer, "200")?;
            let head = format!(
                "PUT {put} HTTP/1.1\r\nHost: {}\r\nx-ms-blob-type: BlockBlob\r\nx-ms-version: 2026-04-06\r\n\
                 Content-Length: {length}\r\n\r\n",
                job.to
            );
            to.write_all(&[head.as_bytes(), &buffer[end..came]].concat())?;
            let mut left = length.saturating_sub(came - end);
            while left > 0 {
                let read = from.read(&mut buffer)?;
                if read == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                to.write_all(&buffer[..read])?;
                left = left.saturating_sub(read);
            }
            self::head(&mut to, &mut buffer, "201")?;
        }
        Ok::<_, std::io::Error>(())
    };
    all().map_err(|e| e.to_string())
}

/// Reads an answer up to where its body begins: where that is in `buffer`, how much came, and how long the body
/// will be.
fn head(line: &mut TcpStream, buffer: &mut [u8], wanted: &str) -> std::io::Result<(usize, usize, usize)> {
    let mut came = 0;
    loop {
        let read = line.read(&mut buffer[came..])?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        came += read;
        let Some(end) = buffer[..came].windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        if text.split(' ').nth(1) != Some(wanted) {
            return Err(std::io::Error::other(text));
        }
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        return Ok((end + 4, came, length.unwrap_or(0)));
    }
}
