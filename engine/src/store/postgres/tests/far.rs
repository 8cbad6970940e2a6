//! A database that is far away.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::store::conformance::lines;
use crate::store::postgres::lease::HEARTBEAT;

/// What a round trip takes on the way to another continent.
const FAR: Duration = Duration::from_millis(40);

/// The server by a way on which all that it is told takes so much longer.
fn far_away(server: &Server) -> (TempDir, Secret) {
    let dir = tempfile::tempdir().unwrap();
    let name = format!(".s.PGSQL.{}", server.port);
    let (listener, there) =
        (UnixListener::bind(dir.path().join(&name)).unwrap(), server.dir.path().join(&name));
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = UnixStream::connect(&there).await.unwrap();
            let ((mut asked, mut answers), (mut answered, mut asks)) = (near.into_split(), far.into_split());
            tokio::spawn(async move {
                let mut told = vec![0; 64 * 1024];
                while let Ok(length @ 1..) = asked.read(&mut told).await {
                    tokio::time::sleep(FAR).await;
                    asks.write_all(&told[..length]).await.unwrap();
                }
            });
            tokio::spawn(async move { tokio::io::copy(&mut answered, &mut answers).await });
        }
    });
    let url =
        format!("postgresql:///postgres?user=migrate&host={}&port={}", dir.path().display(), server.port);
    (dir, Secret::new(url))
}

#[tokio::test]
async fn a_chatty_step_keeps_no_lease_from_being_renewed() {
    let server = Server::start().await;
    let near = server.lab();
    drop(near.handle().await);
    let (_dir, url) = far_away(&server);
    let (store, run) = begun(&Project { url, key: near.key }, "a").await;
    let said = lines(300);
    let (stored, renewed) = tokio::join!(
        store.append(&run, &said),
        // As long as a heartbeat waits for it.
        tokio::time::timeout(HEARTBEAT / 2, store.renew())
    );
    stored.unwrap();
    renewed.expect("renewed in time").unwrap();
}
