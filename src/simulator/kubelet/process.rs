//! Containers that are real processes: `--pod-command CMD`. Used by the simulator in place of the
//! built-in look-alike. No process outlives the simulator, even if that is killed.

use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;

use super::Runtime;
use crate::simulator::container::{ContainerSpec, Exit, Log, Signals};

/// Longest line of output that stays one line: where container runtimes cut.
const LINE_LIMIT: u64 = 16 * 1024;
/// How long output may still come when the process has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the process group's leader runs. The group hangs on the pipe that is its standard input: when
/// the simulator ends, however it ends, the reader sees it and kills the group. The reader ignores
/// a SIGTERM that the command sends to its group.
const LEADER: &str = "exec 3<&0 </dev/null
(trap '' TERM; read -r line <&3; kill -s KILL 0) >/dev/null 2>&1 &
exec 3<&-
exec sh -c \"$1\"";

/// Runs `sh -c COMMAND` as every container: with the container's environment and nothing else but
/// `PATH`, `HOSTNAME` and `POD_IP`.
#[derive(Clone, Debug)]
pub struct ProcessRuntime {
    /// The shell command.
    pub command: String,
}

impl Runtime for ProcessRuntime {
    fn run(
        &self,
        spec: ContainerSpec,
        log: Log,
        signals: Signals,
    ) -> Pin<Box<dyn Future<Output = Exit> + Send>> {
        let command = self.command.clone();
        Box::pin(async move {
            match start(&command, &spec) {
                Ok(process) => process.run(log, signals).await,
                Err(error) => Exit {
                    code: 128,
                    reason: "StartError",
                    message: Some(format!("failed to start the pod command `{command}`: {error}")),
                },
            }
        })
    }
}

fn start(command: &str, spec: &ContainerSpec) -> std::io::Result<Process> {
    let mut leader = Command::new("/bin/sh");
    leader.args(["-c", LEADER, "sh", command]).env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        leader.env("PATH", path);
    }
    leader.env("HOSTNAME", &spec.pod_name);
    leader.envs(spec.env.iter().map(|(name, value)| (name, value)));
    leader.env("POD_IP", spec.pod_ip.to_string());
    leader.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    leader.process_group(0).kill_on_drop(true);
    let mut child = leader.spawn()?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let group = group.ok_or_else(|| std::io::Error::other("the process has no id"))?;
    let lifeline = child.stdin.take();
    Ok(Process { child, group: Group(group), _lifeline: lifeline })
}

/// A process group; killed when this is dropped.
struct Group(Pid);

impl Group {
    /// Asks its leader to end, who is to a container's other processes what their first one is. Called
    /// only while the leader has not been waited for, so that its id is nobody else's.
    fn terminate(&self) {
        let _ = kill_process(self.0, Signal::TERM);
    }

    fn kill(&self) {
        // The only error is that none of its processes is left.
        let _ = kill_process_group(self.0, Signal::KILL);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Process {
    child: Child,
    group: Group,
    _lifeline: Option<ChildStdin>,
}

impl Process {
    async fn run(mut self, log: Log, signals: Signals) -> Exit {
        let out = self.child.stdout.take().map(|out| tokio::spawn(copy(out, log.clone())));
        let err = self.child.stderr.take().map(|err| tokio::spawn(copy(err, log)));
        let (mut termed, mut killed) = (false, false);
        let status = loop {
            tokio::select! {
                status = self.child.wait() => break status,
                () = signals.term.cancelled(), if !termed => {
                    termed = true;
                    self.group.terminate();
                }
                () = signals.kill.cancelled(), if !killed => {
                    killed = true;
                    self.group.kill();
                }
            }
        };
        // As in a container, whatever the command has left running ends with it.
        self.group.kill();
        for output in [out, err].into_iter().flatten() {
            finish(output).await;
        }
        match status {
            Ok(status) => Exit::code(code(status)),
            Err(error) => Exit { code: 255, reason: "Error", message: Some(error.to_string()) },
        }
    }
}

async fn finish(mut output: JoinHandle<()>) {
    if tokio::time::timeout(LAST_WORDS, &mut output).await.is_err() {
        output.abort();
    }
}

/// The exit code, or 128 and the signal that ended it.
fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255)
}

async fn copy(output: impl AsyncRead + Unpin, log: Log) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut output).take(LINE_LIMIT).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = line.strip_suffix(b"\n").unwrap_or(&line);
                log.line(String::from_utf8_lossy(text.strip_suffix(b"\r").unwrap_or(text)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ContainerSpec {
        ContainerSpec {
            pod_name: "p".into(),
            pod_ip: "127.42.0.9".parse().unwrap(),
            image: "x".into(),
            argv: vec![],
            env: vec![("A".into(), "1".into()), ("A".into(), "2".into())],
        }
    }

    fn run(command: &str) -> (tokio::task::JoinHandle<Exit>, Log, Signals) {
        let (log, signals) = (Log::default(), Signals::default());
        let runtime = ProcessRuntime { command: command.into() };
        (tokio::spawn(runtime.run(spec(), log.clone(), signals.clone())), log, signals)
    }

    async fn until_line(log: &Log, line: &str) {
        let mut written = log.written();
        while !log.lines().iter().any(|l| l == line) {
            tokio::time::timeout(Duration::from_secs(20), written.changed()).await.unwrap().unwrap();
        }
    }

    fn is_alive(pid: &str) -> bool {
        // A zombie is not alive; its parent may be anyone.
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
    }

    async fn until_dead(pid: &str) {
        let waiting = async {
            while is_alive(pid) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("the process ends");
    }

    #[tokio::test]
    async fn has_the_containers_environment_and_its_output_is_the_log() {
        let (run, log, _signals) = run("echo $A $POD_IP $HOSTNAME ${HOME-none}; echo oops >&2; exit 3");
        assert_eq!(run.await.unwrap(), Exit::code(3));
        let mut lines = log.lines();
        lines.sort();
        assert_eq!(lines, ["2 127.42.0.9 p none", "oops"]);
    }

    #[tokio::test]
    async fn sigterm_lets_it_end_by_itself() {
        let (run, log, signals) = run("trap 'echo bye; exit 1' TERM; echo up; while :; do sleep 0.02; done");
        until_line(&log, "up").await;
        signals.term.cancel();
        assert_eq!(run.await.unwrap(), Exit::code(1));
        assert_eq!(log.lines(), ["up", "bye"]);
    }

    #[tokio::test]
    async fn sigkill_takes_the_whole_group_with_it() {
        let (run, log, signals) = run("trap '' TERM; sleep 600 & echo $!; echo up; wait");
        until_line(&log, "up").await;
        signals.term.cancel();
        signals.kill.cancel();
        assert_eq!(run.await.unwrap(), Exit::code(137));
        until_dead(&log.lines()[0]).await;
    }

    #[tokio::test]
    async fn what_it_leaves_running_ends_with_it() {
        let (run, log, _signals) = run("sleep 600 & echo $!");
        assert_eq!(run.await.unwrap(), Exit::code(0));
        until_dead(&log.lines()[0]).await;
    }

    #[tokio::test]
    async fn ends_when_nobody_waits_for_it_any_more() {
        let (run, log, _signals) = run("echo $$; echo up; sleep 600; true");
        until_line(&log, "up").await;
        run.abort();
        until_dead(&log.lines()[0]).await;
    }

    /// The pipe alone ends the group: as when the simulator is killed.
    #[tokio::test]
    async fn ends_when_its_lifeline_is_cut() {
        let mut process = start("echo $$; sleep 600 & wait", &spec()).unwrap();
        let log = Log::default();
        tokio::spawn(copy(process.child.stdout.take().unwrap(), log.clone()));
        let mut written = log.written();
        written.wait_for(|n| *n > 0).await.unwrap();
        process._lifeline = None;
        let status =
            tokio::time::timeout(Duration::from_secs(20), process.child.wait()).await.unwrap().unwrap();
        assert_eq!(code(status), 137);
        until_dead(&log.lines()[0]).await;
    }
}
