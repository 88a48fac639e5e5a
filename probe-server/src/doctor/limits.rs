//! The system's limits, against what bulk traffic and a night's soak need; with the command that changes each.

use probe_protocol::finding::Command;
use socket2::{Domain, Socket, Type};

use super::exec::run;
use super::report::{Check, Part, State, command};

/// What is asked for as a socket's buffer: 1 Gbit/s for 64 ms, so that a reader that is late once loses nothing.
const WANTED_BUFFER: usize = 8 << 20;
/// Below this, 1 Gbit/s overflows it within 32 ms.
const NEEDED_BUFFER: usize = 4 << 20;
/// Descriptors that a listener with thousands of sessions needs.
#[cfg(unix)]
const NEEDED_HANDLES: u64 = 8192;

/// The checks of the limits.
pub(super) async fn check() -> Part {
    let (time, power) = tokio::join!(time(), power());
    Part::default().check(buffers()).check(handles()).check(time).check(power)
}

fn buffers() -> Check {
    const NAME: &str = "socket-buffers";
    let Some((receive, send)) = granted() else {
        return Check::unknown(
            NAME,
            "no socket could be opened to ask",
            "a system that lets a socket be opened",
        );
    };
    let mib = |bytes: usize| format!("{:.1} MiB", bytes as f64 / 1_048_576.0);
    let says = format!(
        "{} to receive and {} to send are granted; bulk traffic at 1 Gbit/s needs {}",
        mib(receive),
        mib(send),
        mib(NEEDED_BUFFER)
    );
    if receive.min(send) >= NEEDED_BUFFER {
        return Check::ok(NAME, says);
    }
    let check = Check::problem(NAME, says);
    if cfg!(target_os = "linux") {
        let values = format!("net.core.rmem_max={WANTED_BUFFER} net.core.wmem_max={WANTED_BUFFER}");
        let lines = values.replace(' ', "\\n");
        check
            .command("Linux (running)", format!("sysctl -w {values}"))
            .command("Linux (permanent)", format!("printf '{lines}\\n' > /etc/sysctl.d/90-probe.conf"))
    } else if cfg!(target_os = "macos") {
        check.command("macOS", format!("sudo sysctl -w kern.ipc.maxsockbuf={WANTED_BUFFER}"))
    } else {
        check
    }
}

/// Bytes that a UDP socket is granted to receive and to send, of those wanted.
fn granted() -> Option<(usize, usize)> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).ok()?;
    // Some systems refuse what is too much, others grant less without a word.
    let sizes = || (0..6).map(|halvings| WANTED_BUFFER >> halvings);
    let _ = sizes().find(|size| socket.set_recv_buffer_size(*size).is_ok());
    let _ = sizes().find(|size| socket.set_send_buffer_size(*size).is_ok());
    // Linux doubles the number for its own bookkeeping (socket(7)).
    let payload = |bytes: usize| if cfg!(target_os = "linux") { bytes / 2 } else { bytes };
    Some((payload(socket.recv_buffer_size().ok()?), payload(socket.send_buffer_size().ok()?)))
}

#[cfg(unix)]
fn handles() -> Check {
    const NAME: &str = "file-handles";
    use nix::sys::resource::{Resource, getrlimit};
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => {
            let says =
                format!("{soft} may be open at once, {hard} after raising it; {NEEDED_HANDLES} are wanted");
            if hard >= NEEDED_HANDLES {
                return Check::ok(NAME, says);
            }
            Check::problem(NAME, says)
                .command("shell", format!("ulimit -n {NEEDED_HANDLES}"))
                .command("systemd", format!("LimitNOFILE={NEEDED_HANDLES} in the unit's [Service]"))
        }
        Err(error) => {
            Check::unknown(NAME, format!("the limit could not be read: {error}"), "a system that tells it")
        }
    }
}

#[cfg(not(unix))]
fn handles() -> Check {
    Check::ok("file-handles", "this system sets a process no limit that matters here")
}

/// The commands that set a clock and keep it set.
pub(super) fn clock_commands() -> Vec<Command> {
    if cfg!(windows) {
        vec![command(
            "Windows",
            "w32tm /config /manualpeerlist:pool.ntp.org /syncfromflags:manual /update && w32tm /resync",
        )]
    } else if cfg!(target_os = "macos") {
        vec![command("macOS", "sudo systemsetup -setusingnetworktime on")]
    } else {
        vec![command("Linux", "timedatectl set-ntp true")]
    }
}

async fn time() -> Check {
    const NAME: &str = "time-sync";
    let check = if cfg!(target_os = "linux") {
        match run("timedatectl", &["show", "-p", "NTP", "-p", "NTPSynchronized"]).await {
            Ok(text) => timedatectl(&text),
            Err(error) => match run("chronyc", &["-c", "tracking"]).await {
                Ok(text) => chrony(&text),
                Err(_) => return Check::unknown(NAME, error.to_string(), "systemd's timedatectl, or chrony"),
            },
        }
    } else if cfg!(target_os = "macos") {
        match run("systemsetup", &["-getusingnetworktime"]).await {
            Ok(text) if text.contains(": On") => Ok("network time is on".to_owned()),
            Ok(text) if text.contains(": Off") => Err("network time is off".to_owned()),
            Ok(_) | Err(_) => {
                return Check::unknown(NAME, "whether network time is on is not readable", "root");
            }
        }
    } else if cfg!(windows) {
        match run("sc", &["query", "w32time"]).await {
            Ok(text) => w32time(&text),
            Err(error) => return Check::unknown(NAME, error.to_string(), "the service w32time"),
        }
    } else {
        return Check::unknown(NAME, "not known on this system", "Linux, macOS or Windows");
    };
    match check {
        Ok(says) => Check::ok(NAME, says),
        Err(says) => Check { commands: clock_commands(), ..Check::new(NAME, State::Problem, says) },
    }
}

/// `timedatectl show -p NTP -p NTPSynchronized`.
fn timedatectl(text: &str) -> Result<String, String> {
    if text.lines().any(|line| line == "NTPSynchronized=yes") {
        Ok("the clock is synchronized".to_owned())
    } else if text.lines().any(|line| line == "NTP=yes") {
        Err("time synchronization is on, but the clock is not synchronized yet".to_owned())
    } else {
        Err("the clock is not synchronized".to_owned())
    }
}

/// `chronyc -c tracking`: the last field is the leap status.
fn chrony(text: &str) -> Result<String, String> {
    match text.trim().rsplit(',').next() {
        Some("Normal" | "Insert second" | "Delete second") => {
            Ok("chrony keeps the clock synchronized".to_owned())
        }
        _ => Err("chrony has not synchronized the clock".to_owned()),
    }
}

/// `sc query w32time`: a line with the state's number, whatever the language.
fn w32time(text: &str) -> Result<String, String> {
    const RUNNING: &str = "4";
    let state = text.lines().filter_map(|line| line.split_once(':')).nth(2).map(|(_, rest)| rest.trim());
    if state.and_then(|state| state.split_whitespace().next()) == Some(RUNNING) {
        Ok("the Windows Time service runs".to_owned())
    } else {
        Err("the Windows Time service does not run".to_owned())
    }
}

async fn power() -> Check {
    const NAME: &str = "power-saving";
    if cfg!(target_os = "linux") {
        match run("systemctl", &["is-enabled", "sleep.target"]).await {
            Ok(text) | Err(super::exec::ExecError::Failed(_, text)) if text.trim() == "masked" => {
                return Check::ok(NAME, "sleep is masked: this host does not sleep by itself");
            }
            _ => {}
        }
        let args = [
            "get-property",
            "org.freedesktop.login1",
            "/org/freedesktop/login1",
            "org.freedesktop.login1.Manager",
            "IdleAction",
        ];
        return match run("busctl", &args).await {
            Ok(text) => logind(&text).command(
                "Linux",
                "systemctl mask sleep.target suspend.target (take back: systemctl unmask …)",
            ),
            Err(error) => Check::unknown(NAME, error.to_string(), "systemd's logind"),
        };
    }
    if cfg!(target_os = "macos") {
        return match run("pmset", &["-g", "custom"]).await {
            Ok(text) => pmset(&text),
            Err(error) => Check::unknown(NAME, error.to_string(), "pmset"),
        };
    }
    if cfg!(windows) {
        return match run("powercfg", &["/query", "SCHEME_CURRENT", "SUB_SLEEP", "STANDBYIDLE"]).await {
            Ok(text) => powercfg(&text),
            Err(error) => Check::unknown(NAME, error.to_string(), "powercfg"),
        };
    }
    Check::unknown(NAME, "not known on this system", "Linux, macOS or Windows")
}

/// `busctl get-property … IdleAction`: `s "ignore"`.
fn logind(text: &str) -> Check {
    const NAME: &str = "power-saving";
    let action = text.split('"').nth(1).unwrap_or_default();
    match action {
        "ignore" | "lock" => Check::ok(NAME, format!("an idle host is left awake (logind: {action})")),
        "" => Check::unknown(NAME, "logind's answer was not understood", "a newer probe-server"),
        _ => Check::problem(NAME, format!("an idle host will {action}, which would end a soak (logind)")),
    }
}

/// `pmset -g custom`: a line `sleep N` (minutes, 0: never) under `AC Power:`.
fn pmset(text: &str) -> Check {
    const NAME: &str = "power-saving";
    let on_ac = text.lines().skip_while(|line| line.trim() != "AC Power:").skip(1);
    let minutes = on_ac
        .take_while(|line| line.starts_with(' '))
        .find_map(|line| line.trim().strip_prefix("sleep ")?.split_whitespace().next()?.parse::<u32>().ok());
    match minutes {
        Some(0) => Check::ok(NAME, "on mains this Mac does not sleep"),
        Some(minutes) => {
            Check::problem(NAME, format!("on mains this Mac sleeps after {minutes} minutes idle"))
                .command("macOS", "sudo pmset -c sleep 0")
                .command("macOS (for one run)", "caffeinate -s probe-server")
        }
        None => Check::unknown(NAME, "pmset's answer was not understood", "a newer probe-server"),
    }
}

/// `powercfg /query … STANDBYIDLE`: the last two hexadecimal numbers are the seconds on mains and on battery.
fn powercfg(text: &str) -> Check {
    const NAME: &str = "power-saving";
    let numbers: Vec<u32> = text
        .lines()
        .filter_map(|line| u32::from_str_radix(line.rsplit_once(": 0x")?.1.trim(), 16).ok())
        .collect();
    match numbers.as_slice() {
        [.., 0, _] => Check::ok(NAME, "on mains this host does not sleep"),
        [.., seconds, _] => {
            Check::problem(NAME, format!("on mains this host sleeps after {} minutes idle", seconds / 60))
                .command("Windows", "powercfg /change standby-timeout-ac 0")
        }
        _ => Check::unknown(NAME, "powercfg's answer was not understood", "a newer probe-server"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_answers_about_time() {
        assert!(timedatectl("NTP=yes\nNTPSynchronized=yes\n").is_ok());
        assert!(timedatectl("NTP=yes\nNTPSynchronized=no\n").unwrap_err().contains("not synchronized yet"));
        assert!(timedatectl("NTP=no\nNTPSynchronized=no\n").is_err());
        assert!(
            chrony(
                "A29FC87B,162.159.200.123,3,1769896521.1,0.0001,0.0,0.0,1.0,0.0,0.1,0.01,0.001,64.2,Normal\n"
            )
            .is_ok()
        );
        assert!(chrony("7F7F0101,,0,0,0,0,0,0,0,0,0,0,0,Not synchronised\n").is_err());
        let runs = "\r\nSERVICE_NAME: w32time\r\n        TYPE               : 30  WIN32\r\n        STATE              : 4  \
                    RUNNING\r\n";
        assert!(w32time(runs).is_ok());
        assert!(w32time(&runs.replace("4  RUNNING", "1  STOPPED")).is_err());
    }

    #[test]
    fn recorded_answers_about_sleep() {
        assert_eq!(logind("s \"ignore\"\n").state, State::Ok);
        assert_eq!(logind("s \"suspend\"\n").state, State::Problem);
        assert_eq!(logind("").state, State::Unknown);
        let mac = "Battery Power:\n sleep                1\n displaysleep         2\nAC Power:\n womp                 1\n \
                   sleep                10 (sleep prevented by powerd)\n displaysleep         10\n";
        assert!(pmset(mac).says.contains("10 minutes"));
        assert_eq!(pmset(&mac.replace("sleep                10", "sleep                0")).state, State::Ok);
        let windows = "    Maximum Possible Setting: 0xffffffff\r\n    Possible Settings increment: 0x00000001\r\n  Current \
                       AC Power Setting Index: 0x00000708\r\n  Current DC Power Setting Index: 0x00000384\r\n";
        assert!(powercfg(windows).says.contains("30 minutes"));
        assert_eq!(powercfg(&windows.replace("00000708", "00000000")).state, State::Ok);
        assert_eq!(powercfg("").state, State::Unknown);
    }

    #[test]
    fn this_host_grants_something() {
        let (receive, send) = granted().unwrap();
        assert!(receive > 0 && send > 0);
        assert_ne!(buffers().state, State::Unknown);
    }
}
