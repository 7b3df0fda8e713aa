//! A streamed object: a task of its own sends the pieces on, and gives the object its name in the end.
//!
//! The task works on while the caller prepares the next piece. A failure is told by the call after it.
//! Memory is bounded by the pieces that wait for the task and by the channel's window.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use packvault_storage::{Error, ErrorKind, Key, Operation, Result, Staged, Step};
use tokio::sync::{mpsc, oneshot};

use crate::client::Client;
use crate::publish::{Published, publish_new, swept};
use crate::upload::Upload;

/// How many calls may wait for the task.
const WAITING_MAX: usize = 2;

/// An unfinished object in `staging/`; dropped, it is removed by its task.
#[derive(Debug)]
pub(crate) struct SftpStaged {
    key: Key,
    commands: mpsc::Sender<Command>,
    failure: Arc<Mutex<Option<Error>>>,
}

#[derive(Debug)]
enum Command {
    Write(Bytes),
    Seal(oneshot::Sender<Result<()>>),
    Discard(oneshot::Sender<Result<()>>),
}

impl SftpStaged {
    /// Takes the upload over into a task.
    pub(crate) fn new(client: Client, key: Key, upload: Upload) -> Self {
        let (commands, orders) = mpsc::channel(WAITING_MAX);
        let failure = Arc::default();
        tokio::spawn(run(client, key.clone(), upload, orders, Arc::clone(&failure)));
        Self { key, commands, failure }
    }

    async fn order(&self, operation: Operation, command: Command) -> Result<()> {
        self.commands.send(command).await.map_err(|_| self.failed(operation))
    }

    async fn end(
        &self,
        operation: Operation,
        command: impl FnOnce(oneshot::Sender<Result<()>>) -> Command,
    ) -> Result<()> {
        let (sender, answer) = oneshot::channel();
        self.order(operation, command(sender)).await?;
        answer.await.map_err(|_| self.failed(operation))?
    }

    /// Returns why the task has ended, to the first that asks.
    fn failed(&self, operation: Operation) -> Error {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.unwrap_or_else(|| {
            Error::new(ErrorKind::Io, operation, &self.key, "an earlier write of it failed")
        })
    }
}

#[async_trait]
impl Staged for SftpStaged {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.order(Operation::Write, Command::Write(bytes)).await
    }

    async fn seal(self: Box<Self>) -> Result<()> {
        self.end(Operation::Seal, Command::Seal).await
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        match self.end(Operation::Discard, Command::Discard).await {
            // What failed before has removed its file already, as far as it could.
            Err(error) if error.operation() != Operation::Discard => Ok(()),
            Err(error) if error.kind() == ErrorKind::Io => Ok(()),
            result => result,
        }
    }
}

async fn run(
    client: Client,
    key: Key,
    mut upload: Upload,
    mut orders: mpsc::Receiver<Command>,
    failure: Arc<Mutex<Option<Error>>>,
) {
    let step = |operation| Step::new(operation, key.as_str());
    while let Some(order) = orders.recv().await {
        match order {
            Command::Write(bytes) => {
                if let Err(error) = upload.write(step(Operation::Write), bytes).await {
                    let _ = upload.discard(step(Operation::Discard)).await;
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return;
                }
            }
            Command::Seal(answer) => {
                let step = step(Operation::Seal);
                let sealed = match publish_new(&client, step, &key, upload).await {
                    Ok(Published::Done) => Ok(()),
                    Ok(Published::Swept) => Err(swept(step)),
                    Err(error) => Err(error),
                };
                let _ = answer.send(sealed);
                return;
            }
            Command::Discard(answer) => {
                let _ = answer.send(upload.discard(step(Operation::Discard)).await);
                return;
            }
        }
    }
    let _ = upload.discard(step(Operation::Discard)).await;
}
