//! Keeps the right to write while a run works, and ends the work when it is lost.
//!
//! A process that can't renew its lease stops before another may take it over: what it does outside
//! would else be done twice at the same time. One that slept through it learns it at its next renewal
//! or write, whichever comes first; the store refuses both.

use std::time::Duration;

use crate::ambient;
use crate::error::RunError;
use crate::store::{Store, StoreError};

/// Renewals that may fail in a row: the next would come when the lease may be over.
const MAX_MISSED: u32 = 2;

/// Does `work` for as long as the right to write lasts, and gives it back, however that ends.
pub(crate) async fn with_right<T>(
    store: &dyn Store,
    work: impl Future<Output = Result<T, RunError>>,
) -> Result<T, RunError> {
    let result = keep_right(store, work).await;
    store.close().await;
    result
}

/// Does `work` for as long as the right to write lasts. Whatever runs when it ends is aborted.
pub(crate) async fn keep_right<T>(
    store: &dyn Store,
    work: impl Future<Output = Result<T, RunError>>,
) -> Result<T, RunError> {
    tokio::select! {
        biased;
        error = beat(store) => Err(error.into()),
        result = work => result,
    }
}

/// Renews until that no longer works.
async fn beat(store: &dyn Store) -> StoreError {
    let Some(every) = store.heartbeat() else { return std::future::pending().await };
    let mut missed = 0;
    loop {
        ambient::sleep(every).await;
        match renewed(store, every).await {
            Ok(()) => missed = 0,
            // Of neither is there a way back.
            Err(error @ (StoreError::Fenced { .. } | StoreError::Corrupt { .. })) => return error,
            Err(error) => {
                missed += 1;
                if missed == MAX_MISSED {
                    return error;
                }
            }
        }
    }
}

/// A renewal that takes as long as the time between two is none.
async fn renewed(store: &dyn Store, limit: Duration) -> Result<(), StoreError> {
    match tokio::time::timeout(limit / 2, store.renew()).await {
        Ok(result) => result,
        Err(_) => {
            Err(StoreError::Failed { operation: "renew the lease", source: "no answer in time".into() })
        }
    }
}
