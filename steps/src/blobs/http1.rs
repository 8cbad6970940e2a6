//! Requests over HTTP/1.1, each on a connection that is driven by whoever waits for its answer.
//!
//! A client with a pool has a task for each connection, and wakes two tasks several times for each
//! request: of a small object that is most of what we pay (docs/benchmarks.md). Here a request takes
//! a connection, its own task reads and writes, and puts it back when the answer has come whole. A
//! request that an idle connection no longer took goes over another one; one that was begun is
//! never sent again by itself. Behind a proxy the requests are the client's.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HOST;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame, Incoming};
use hyper::client::conn::http1;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use migrate_plugin_api::StepError;
use reqwest::Body;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service as _;

use super::errors::{Said, chain};
use crate::tls;

/// Long enough for a dial across continents.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that was idle for longer may be gone without our hearing of it.
const IDLE: Duration = Duration::from_secs(90);
/// An idle line is asked whether it is still there, and given up after so many silences.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 3;
/// What was sent and not acknowledged for so long is lost.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Bytes of a body that nobody needs for which a new connection costs more than reading them.
const WORTH_READING: usize = 64 << 10;

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("no connection")]
    Connect(#[source] Box<dyn StdError + Send + Sync>),
    #[error("nothing came for {} s", .0.as_secs())]
    Silence(Duration),
    #[error("the connection broke")]
    Line(#[from] hyper::Error),
    #[error("no answer")]
    Client(#[from] reqwest::Error),
    #[error("no request can be made of this URL")]
    Url,
}

/// Connections to services, and a client for where there is a proxy.
#[derive(Clone)]
pub(super) struct Lines(Arc<Shared>);

struct Shared {
    /// For what goes through a proxy, and for other clients.
    client: reqwest::Client,
    proxies: Matcher,
    connector: HttpsConnector<HttpConnector>,
    silence: Duration,
    /// The longest idle first.
    idle: Mutex<VecDeque<Line>>,
}

impl Lines {
    /// Of requests that are given up after `silence`. Sends nothing yet.
    pub(super) fn new(silence: Duration) -> Result<Self, StepError> {
        let failed = |cause: String| StepError::permanent("failed to set up HTTP").with_source(Said(cause));
        // Neither service speaks HTTP/2, and requests of one connection would wait for each other.
        let client = tls::client(tls::Speaks::Http1)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(silence)
            .redirect(reqwest::redirect::Policy::none())
            // Bytes must arrive as they are stored.
            .no_gzip()
            .no_deflate()
            .no_brotli()
            .no_zstd()
            .build()
            .map_err(|e| failed(chain(&e)))?;
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_keepalive(Some(KEEPALIVE));
        connector.set_keepalive_interval(Some(KEEPALIVE));
        connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
        #[cfg(target_os = "linux")]
        connector.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
        let tls = tls::config(tls::Speaks::Http1).map_err(|e| failed(chain(&e)))?;
        Ok(Self(Arc::new(Shared {
            client,
            proxies: Matcher::from_env(),
            connector: HttpsConnector::from((connector, tls)),
            silence,
            idle: Mutex::default(),
        })))
    }

    /// For what doesn't come by the thousand.
    pub(super) fn client(&self) -> &reqwest::Client {
        &self.0.client
    }

    /// Sends `request`, whose URI is a whole one, and waits for the head of its answer. Follows no
    /// redirect.
    ///
    /// # Errors
    /// When there is no answer. Whether the request arrived is then unknown.
    pub(super) async fn send(&self, mut request: Request<Body>) -> Result<Answer, Broken> {
        let to = Origin::of(request.uri()).ok_or(Broken::Url)?;
        if self.0.proxies.intercept(request.uri()).is_some() {
            let response = http::Response::from(self.0.client.execute(request.try_into()?).await?);
            let (head, body) = response.into_parts();
            return Ok(Answer { head, body: Coming::Client(body), silence: self.0.silence });
        }
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        request.headers_mut().insert(HOST, to.host.clone());
        loop {
            let (mut line, used) = match self.0.idle(&to) {
                Some(line) => (line, true),
                None => (self.0.connect(&to).await?, false),
            };
            let answer = line.sender.try_send_request(request);
            let Ok(answer) = timeout(self.0.silence, line.driver.during(answer)).await else {
                return Err(Broken::Silence(self.0.silence));
            };
            match answer {
                Ok(answer) => {
                    let (head, body) = answer.into_parts();
                    let mut coming = OnLine { body, line: Some(line), home: Arc::clone(&self.0) };
                    coming.ends(false);
                    return Ok(Answer { head, body: Coming::OnLine(coming), silence: self.0.silence });
                }
                Err(mut refused) => match refused.take_message() {
                    // It was closed while it was idle.
                    Some(back) if used => request = back,
                    _ => return Err(refused.into_error().into()),
                },
            }
        }
    }
}

impl Shared {
    /// The connection that was used last: so that no more are kept than are needed.
    fn idle(&self, to: &Origin) -> Option<Line> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        while idle.pop_front_if(|line| now.saturating_duration_since(line.since) > IDLE).is_some() {}
        let at = idle.iter().rposition(|line| line.to == *to)?;
        idle.remove(at)
    }

    async fn connect(&self, to: &Origin) -> Result<Line, Broken> {
        let mut connector = self.connector.clone();
        let failed = |e: Box<dyn StdError + Send + Sync>| Broken::Connect(e);
        poll_fn(|cx| connector.poll_ready(cx)).await.map_err(failed)?;
        let io = timeout(self.silence, connector.call(to.uri()?)).await;
        let io = io.map_err(|_| Broken::Silence(self.silence))?.map_err(failed)?;
        let (sender, connection) = http1::handshake(io).await?;
        let driver = Driver(Some(Box::pin(connection)));
        Ok(Line { to: to.clone(), sender, driver, since: Instant::now() })
    }
}

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: Scheme,
    authority: Authority,
    host: HeaderValue,
}

impl Origin {
    fn of(uri: &Uri) -> Option<Self> {
        let host = HeaderValue::try_from(host(uri)?).ok()?;
        Some(Self { scheme: uri.scheme()?.clone(), authority: uri.authority()?.clone(), host })
    }

    fn uri(&self) -> Result<Uri, Broken> {
        let uri = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone());
        uri.path_and_query("/").build().map_err(|_| Broken::Url)
    }
}

/// What the `Host` header of a request is: without the port where it is the scheme's own.
pub(super) fn host(uri: &Uri) -> Option<String> {
    let own = match uri.scheme()?.as_str() {
        "https" => 443,
        _ => 80,
    };
    Some(match uri.port_u16().filter(|port| *port != own) {
        Some(port) => format!("{}:{port}", uri.host()?),
        None => uri.host()?.to_owned(),
    })
}

/// A connection and who may send over it.
struct Line {
    to: Origin,
    sender: http1::SendRequest<Body>,
    driver: Driver,
    since: Instant,
}

/// What reads and writes a connection, while there is one.
struct Driver(Option<Pin<Box<Connection>>>);

type Connection = http1::Connection<MaybeHttpsStream<TokioIo<TcpStream>>, Body>;

impl Driver {
    fn drive(&mut self, cx: &mut Context<'_>) {
        let over = self.0.as_mut().is_some_and(|connection| connection.as_mut().poll(cx).is_ready());
        // Whoever waits for an answer is told why, and, when it is gone, gets back what it didn't take.
        if over {
            self.0 = None;
        }
    }

    /// The outcome of `future`, which comes over this connection.
    async fn during<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            self.drive(cx);
            match future.as_mut().poll(cx) {
                Poll::Ready(output) => Poll::Ready(output),
                Poll::Pending => {
                    // It may have asked for what the connection has at hand.
                    self.drive(cx);
                    future.as_mut().poll(cx)
                }
            }
        })
        .await
    }
}

/// An answer, of which the head has come.
pub(super) struct Answer {
    head: http::response::Parts,
    body: Coming,
    silence: Duration,
}

enum Coming {
    OnLine(OnLine),
    Client(Body),
}

struct OnLine {
    body: Incoming,
    /// Until it has gone back.
    line: Option<Line>,
    home: Arc<Shared>,
}

impl OnLine {
    /// Gives the connection back, if all has come and another request may go over it.
    fn ends(&mut self, ended: bool) {
        if !ended && !self.body.is_end_stream() {
            return;
        }
        let Some(mut line) = self.line.take() else { return };
        // To its end; whoever takes it next is woken by it.
        line.driver.drive(&mut Context::from_waker(Waker::noop()));
        if line.driver.0.is_some() && line.sender.is_ready() {
            line.since = Instant::now();
            self.home.idle.lock().unwrap_or_else(PoisonError::into_inner).push_back(line);
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        loop {
            let frame = match &mut self.line {
                Some(line) => line.driver.during(self.body.frame()).await,
                None => None,
            };
            // Only of a body of known length it is known before its end is read.
            self.ends(frame.is_none());
            match frame.transpose()?.map(Frame::into_data) {
                Some(Ok(bytes)) => return Ok(Some(bytes)),
                // Trailers.
                Some(Err(_)) => {}
                None => return Ok(None),
            }
        }
    }
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.head.status
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// Bytes of the body, where the head says it.
    pub(super) fn content_length(&self) -> Option<u64> {
        match &self.body {
            Coming::OnLine(coming) => coming.body.size_hint().exact(),
            Coming::Client(body) => body.size_hint().exact(),
        }
    }

    /// Reads a body that nobody needs to its end, for the connection's sake; one that goes on isn't worth it.
    pub(super) async fn rest(mut self) {
        let mut came = 0;
        while came < WORTH_READING
            && let Ok(Some(piece)) = self.chunk().await
        {
            came += piece.len();
        }
    }

    /// The next piece of the body; `None` behind the last.
    ///
    /// # Errors
    /// When the body breaks off.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Broken> {
        match &mut self.body {
            Coming::OnLine(coming) => match timeout(self.silence, coming.next()).await {
                Ok(piece) => Ok(piece?),
                Err(_) => Err(Broken::Silence(self.silence)),
            },
            Coming::Client(body) => loop {
                match body.frame().await.transpose()?.map(Frame::into_data) {
                    Some(Ok(bytes)) => return Ok(Some(bytes)),
                    Some(Err(_)) => {}
                    None => return Ok(None),
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write as _};
    use std::net::{Shutdown, SocketAddr, TcpListener};
    use std::sync::mpsc;
    use std::thread;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    const WHOLE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
    const HALF: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabc";

    /// Answers in turn what a connection's script says, then closes it: for each connection a script. Tells
    /// of every request with the number of its connection, and of the end of a connection without one.
    fn serve(scripts: Vec<Vec<&'static str>>) -> (SocketAddr, mpsc::Receiver<(usize, Option<String>)>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            for (number, script) in scripts.into_iter().enumerate() {
                let (mut line, _) = listener.accept().unwrap();
                let tell = tell.clone();
                thread::spawn(move || {
                    for answer in script {
                        let Some(request) = head(&mut line) else { break };
                        tell.send((number, Some(request))).unwrap();
                        line.write_all(answer.as_bytes()).unwrap();
                    }
                    line.shutdown(Shutdown::Both).unwrap();
                    let _ = tell.send((number, None));
                });
            }
        });
        (address, told)
    }

    fn head(line: &mut impl Read) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            line.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        Some(String::from_utf8(head).unwrap())
    }

    async fn get(lines: &Lines, address: SocketAddr, path: &str) -> Result<Answer, Broken> {
        lines.send(Request::get(format!("http://{address}{path}")).body(Body::default()).unwrap()).await
    }

    async fn all(mut answer: Answer) -> Result<Vec<u8>, Broken> {
        let mut all = Vec::new();
        while let Some(piece) = answer.chunk().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    fn lines() -> Lines {
        Lines::new(Duration::from_secs(60)).unwrap()
    }

    /// The connections by which the requests came.
    fn came_by(told: &mpsc::Receiver<(usize, Option<String>)>) -> Vec<usize> {
        told.try_iter().filter(|(_, request)| request.is_some()).map(|(number, _)| number).collect()
    }

    #[tokio::test]
    async fn a_connection_is_used_again_when_its_answer_has_come_whole() {
        let (address, told) = serve(vec![vec![WHOLE, WHOLE], vec![WHOLE]]);
        let lines = lines();
        let first = get(&lines, address, "/a?b").await.unwrap();
        assert_eq!((first.status(), first.content_length()), (StatusCode::OK, Some(3)));
        // While the first is read no other goes over its connection.
        let second = get(&lines, address, "/").await.unwrap();
        assert_eq!(all(first).await.unwrap(), b"abc");
        assert_eq!(all(get(&lines, address, "").await.unwrap()).await.unwrap(), b"abc");
        drop(second);
        let requests: Vec<_> =
            told.try_iter().filter_map(|(number, request)| Some((number, request?))).collect();
        let heads: Vec<_> =
            requests.iter().map(|(number, head)| (*number, head.lines().next().unwrap())).collect();
        assert_eq!(heads, [(0, "GET /a?b HTTP/1.1"), (1, "GET / HTTP/1.1"), (0, "GET / HTTP/1.1")]);
        assert!(requests[0].1.contains(&format!("host: {address}\r\n")), "{requests:?}");
    }

    #[tokio::test]
    async fn an_answer_of_unknown_length_gives_its_connection_back_at_its_end() {
        const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        const EMPTY: &str = "HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        let (address, told) = serve(vec![vec![CHUNKED, EMPTY, WHOLE]]);
        let lines = lines();
        assert_eq!(all(get(&lines, address, "/").await.unwrap()).await.unwrap(), b"abc");
        get(&lines, address, "/").await.unwrap().rest().await;
        assert_eq!(all(get(&lines, address, "/").await.unwrap()).await.unwrap(), b"abc");
        assert_eq!(came_by(&told), [0, 0, 0]);
    }

    #[tokio::test]
    async fn a_request_that_an_idle_connection_no_longer_takes_goes_over_another() {
        let (address, told) = serve(vec![vec![WHOLE], vec![WHOLE]]);
        let lines = lines();
        assert_eq!(all(get(&lines, address, "/").await.unwrap()).await.unwrap(), b"abc");
        // The end of the connection is seen no later than a byte that was sent after it.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut signal = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut signals, _) = listener.accept().unwrap();
        let told = thread::spawn(move || {
            assert_eq!(
                told.iter().map(|(_, request)| request.is_some()).take(2).collect::<Vec<_>>(),
                [true, false]
            );
            signals.write_all(b"!").unwrap();
            told
        });
        signal.read_u8().await.unwrap();
        let told = told.join().unwrap();
        assert_eq!(all(get(&lines, address, "/").await.unwrap()).await.unwrap(), b"abc");
        assert_eq!(came_by(&told), [1]);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_no_end_of_it() {
        let (address, told) = serve(vec![vec![HALF], vec![WHOLE]]);
        let lines = lines();
        let broken = all(get(&lines, address, "/").await.unwrap()).await;
        assert!(matches!(broken, Err(Broken::Line(_))), "{broken:?}");
        assert_eq!(all(get(&lines, address, "/").await.unwrap()).await.unwrap(), b"abc");
        assert_eq!(came_by(&told), [0, 1]);
    }

    #[tokio::test]
    async fn a_request_that_was_begun_is_not_sent_again() {
        let (address, told) = serve(vec![vec![""], vec![WHOLE]]);
        let lines = lines();
        let broken = get(&lines, address, "/").await.map(|answer| answer.status());
        assert!(matches!(broken, Err(Broken::Line(_))), "{broken:?}");
        assert_eq!(came_by(&told), [0]);
    }

    #[tokio::test]
    async fn what_is_left_of_an_answer_is_not_the_next_ones() {
        let (address, told) = serve(vec![vec![HALF, WHOLE], vec![WHOLE]]);
        let lines = lines();
        let mut first = get(&lines, address, "/").await.unwrap();
        assert_eq!(first.chunk().await.unwrap().as_deref(), Some(&b"abc"[..]));
        drop(first);
        assert_eq!(all(get(&lines, address, "/").await.unwrap()).await.unwrap(), b"abc");
        assert_eq!(came_by(&told), [0, 1]);
    }

    #[tokio::test]
    async fn silence_ends_a_request_and_an_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let lines = Lines::new(Duration::from_millis(20)).unwrap();
        // Taken by the system, and never answered.
        let silent = get(&lines, address, "/").await.map(|answer| answer.status());
        assert!(matches!(silent, Err(Broken::Silence(_))), "{silent:?}");
        drop(listener.accept().unwrap());
        let half = thread::spawn(move || {
            let (mut line, _) = listener.accept().unwrap();
            head(&mut line).unwrap();
            line.write_all(HALF.as_bytes()).unwrap();
            line
        });
        let lines = Lines::new(Duration::from_millis(500)).unwrap();
        let silent = all(get(&lines, address, "/").await.unwrap()).await;
        assert!(matches!(silent, Err(Broken::Silence(_))), "{silent:?}");
        drop(half.join().unwrap());
    }

    #[tokio::test]
    async fn behind_a_proxy_it_is_the_proxy_that_is_asked() {
        let (address, told) = serve(vec![vec![WHOLE]]);
        let mut lines = lines();
        let shared = Arc::get_mut(&mut lines.0).unwrap();
        let proxy = format!("http://{address}");
        shared.proxies = Matcher::builder().http(proxy.clone()).build();
        shared.client =
            reqwest::Client::builder().proxy(reqwest::Proxy::http(proxy).unwrap()).build().unwrap();
        let request = Request::get("http://bucket.invalid/key").body(Body::default()).unwrap();
        let answer = lines.send(request).await.unwrap();
        assert_eq!(answer.content_length(), Some(3));
        assert_eq!(all(answer).await.unwrap(), b"abc");
        let (_, request) = told.recv().unwrap();
        assert!(request.unwrap().starts_with("GET http://bucket.invalid/key HTTP/1.1\r\n"));
    }
    #[tokio::test]
    async fn a_url_of_https_is_asked_with_tls() {
        use rustls::pki_types::PrivateKeyDer;
        use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let server = server.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let server = Arc::new(server.with_single_cert(vec![made.cert.der().clone()], key).unwrap());
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let client = client.with_root_certificates(roots).with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = thread::spawn(move || {
            let (line, _) = listener.accept().unwrap();
            let mut line = StreamOwned::new(ServerConnection::new(server).unwrap(), line);
            [(); 2].map(|()| {
                let request = head(&mut line).unwrap();
                line.write_all(WHOLE.as_bytes()).unwrap();
                request
            })
        });
        let mut lines = lines();
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        Arc::get_mut(&mut lines.0).unwrap().connector = HttpsConnector::from((connector, client));
        for _ in 0..2 {
            let request = Request::get(format!("https://localhost:{port}/")).body(Body::default()).unwrap();
            assert_eq!(all(lines.send(request).await.unwrap()).await.unwrap(), b"abc");
        }
        let asked = asked.join().unwrap();
        assert!(
            asked.iter().all(|request| request.contains(&format!("host: localhost:{port}\r\n"))),
            "{asked:?}"
        );
    }
}
