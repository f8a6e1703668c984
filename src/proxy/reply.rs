//! An origin's answer on its way to the client, for `direct`: the head with what came with it in one write,
//! then the rest as it comes, never more of it than one buffer.

use std::io;
use std::pin::pin;
use std::rc::Rc;

use tokio::net::TcpStream;

use super::buffers::SIZE;
use super::connection::while_there;
use super::content::{Content, LAST_CHUNK};
use super::origin::{self, Begun, Wires};
use super::pool::Key;
use super::record::{Outcome, Record};
use super::thread::Thread;
use super::upstream::write_all;
use crate::session::Grant;

/// Bytes of an answer after which others on the thread get their turn.
const TURN: usize = 4 * SIZE;

/// An answer that has begun.
pub(super) struct Reply {
    /// What of it has come.
    pub(super) begun: Begun,
    /// The exit that it comes through.
    pub(super) grant: Grant,
    /// What its tunnel can be used for again.
    pub(super) key: Key,
}

impl Reply {
    /// Passes the answer on. Then the tunnel is kept, if it can be used again.
    pub(super) async fn relay(
        self,
        thread: &Rc<Thread>,
        client: &TcpStream,
        early: &mut Vec<u8>,
        record: &mut Record,
    ) -> Outcome {
        let Self { begun, grant, key } = self;
        let Begun { mut wire, mut out, answer, buffer, at, end } = begun;
        let mut flow = Flow { content: answer.content, clean: true };
        // The head and the content that came with it are one write.
        let ended = flow.pass(buffer.get(at..end).unwrap_or_default(), &mut out);
        thread.buffers.give(buffer);
        let outcome = match client.try_write(&out) {
            Ok(written) if written == out.len() && ended == Ok(true) => Outcome::Ok,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Outcome::ClientReset,
            written => {
                out.drain(..written.unwrap_or_default());
                let rest = pin!(flow.rest(thread, &mut wire, client, &mut out, ended, record));
                tokio::select! {
                    biased;
                    () = thread.gone(&grant.exit) => Outcome::ExitGone,
                    outcome = while_there(client, early, rest) => outcome.unwrap_or(Outcome::ClientReset),
                }
            }
        };
        thread.wires.give(out);
        if outcome == Outcome::Ok && answer.keep_alive && flow.clean {
            Wires::put(thread, key, &grant.exit, wire);
        }
        outcome
    }
}

/// An answer's content on its way.
struct Flow {
    content: Content,
    /// Nothing has come behind it.
    clean: bool,
}

/// The content is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Broken;

impl Flow {
    /// Appends the content in `bytes` to `out`; true if it ends with them.
    fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<bool, Broken> {
        let passed = self.content.pass(bytes, out).map_err(|why| {
            tracing::debug!(why, "an answer's content is broken");
            Broken
        })?;
        self.clean &= passed.used == bytes.len();
        Ok(passed.ended)
    }

    /// Writes `out`, and then what else is to come, as it comes. Of content whose length was told each
    /// piece goes out from where it was read.
    async fn rest(
        &mut self,
        thread: &Thread,
        wire: &mut TcpStream,
        client: &TcpStream,
        out: &mut Vec<u8>,
        mut ended: Result<bool, Broken>,
        record: &mut Record,
    ) -> Outcome {
        let mut moved = 0;
        loop {
            if write_all(client, out).await.is_err() {
                return Outcome::ClientReset;
            }
            match ended {
                Ok(true) => return Outcome::Ok,
                Ok(false) => {}
                Err(Broken) => return Outcome::UpstreamReset,
            }
            if moved >= TURN {
                moved = 0;
                tokio::task::yield_now().await;
            }
            let Ok((buffer, filled)) = origin::read(&thread.buffers, wire).await else {
                return Outcome::UpstreamReset;
            };
            moved += filled;
            record.add_bytes(0, filled as u64);
            let bytes = buffer.get(..filled).unwrap_or_default();
            out.clear();
            match &mut self.content {
                Content::End if filled == 0 => {
                    out.extend_from_slice(LAST_CHUNK);
                    ended = Ok(true);
                }
                _ if filled == 0 => return Outcome::UpstreamReset,
                Content::Length(left) if *left >= filled as u64 => {
                    *left -= filled as u64;
                    ended = Ok(*left == 0);
                    if write_all(client, bytes).await.is_err() {
                        return Outcome::ClientReset;
                    }
                }
                Content::Length(_) | Content::Chunks(..) | Content::End => ended = self.pass(bytes, out),
            }
            thread.buffers.give(buffer);
        }
    }
}
