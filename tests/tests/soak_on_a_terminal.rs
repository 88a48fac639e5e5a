//! The view of a running soak with the real programs on a real pseudo-terminal (`script` makes it): keys, a resize, both
//! Ctrl-Cs, and a terminal that is as it was afterwards, whatever ended the run.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is all test code")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use probe_client::driver::Stop;
use probe_client::record::{About, Clocks, Existing, Recorder, Resolution};
use probe_client::tui::{Subject, View};
use probe_net::clock;
use serde_json::Value;
use tests::binaries;

/// Generous: only what never happens takes so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Set in the process that panics on purpose.
const PANICS: &str = "SOAK_VIEW_PANICS";

/// What a terminal shows: a grid that is written anywhere, and, where no program has taken it, lines.
struct Screen {
    grid: Vec<Vec<char>>,
    at: (usize, usize),
    /// A program has taken the screen for itself.
    taken: bool,
    cursor: bool,
    /// What was written while none had.
    lines: String,
    /// Bytes that are not whole yet.
    rest: Vec<u8>,
}

impl Screen {
    fn new() -> Self {
        let grid = vec![vec![' '; 200]; 60];
        Self { grid, at: (0, 0), taken: false, cursor: true, lines: String::new(), rest: Vec::new() }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.rest) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let text = String::from_utf8_lossy(&self.rest[..whole]).into_owned();
        let mut rest = text.as_str();
        while let Some(first) = rest.chars().next() {
            if first == '\x1b' {
                let Some(end) = rest.char_indices().skip(2).find(|(_, c)| c.is_ascii_alphabetic()) else {
                    break;
                };
                self.sequence(&rest[1..=end.0]);
                rest = &rest[end.0 + 1..];
            } else {
                self.letter(first);
                rest = &rest[first.len_utf8()..];
            }
        }
        let left = rest.len();
        self.rest.drain(..whole - left);
    }

    fn sequence(&mut self, sequence: &str) {
        match sequence {
            "[?1049h" => self.taken = true,
            "[?1049l" => self.taken = false,
            "[?25h" => self.cursor = true,
            "[?25l" => self.cursor = false,
            "[2J" => self.grid.iter_mut().for_each(|row| row.fill(' ')),
            _ => {
                if let Some((row, column)) = sequence
                    .strip_prefix('[')
                    .and_then(|s| s.strip_suffix('H'))
                    .and_then(|s| s.split_once(';'))
                    .and_then(|(row, column)| row.parse().ok().zip(column.parse().ok()))
                {
                    let (row, column): (usize, usize) = (row, column);
                    self.at = (row - 1, column - 1);
                }
            }
        }
    }

    fn letter(&mut self, letter: char) {
        if !self.taken {
            self.lines.push(letter);
        } else if !letter.is_control() {
            let (row, column) = self.at;
            if let Some(place) = self.grid.get_mut(row).and_then(|row| row.get_mut(column)) {
                *place = letter;
            }
            self.at.1 += 1;
        }
    }

    fn shown(&self) -> String {
        let row = |row: &Vec<char>| row.iter().collect::<String>().trim_end().to_owned();
        self.grid.iter().map(row).collect::<Vec<_>>().join("\n").trim_end().to_owned()
    }
}

/// A command on a terminal of 80 by 24.
struct OnTerminal {
    child: Child,
    screen: Arc<Mutex<Screen>>,
    folder: tempfile::TempDir,
}

impl OnTerminal {
    /// Runs what a shell makes of `command`, with `$PROGRAM` and `$TARGET` in its environment.
    fn start(command: &str, program: &Path, target: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let whole = format!(
            "cd \"$FOLDER\"; tty > tty; stty rows 24 cols 80; stty -a > before; {command}; echo \"status=$?\"; stty -a > after"
        );
        let mut script = Command::new("script");
        script.args(["-qefc", &whole, "/dev/null"]);
        script.env("PROGRAM", program).env("TARGET", target).env("FOLDER", folder.path());
        script.env("TERM", "xterm-256color").env("SHELL", "/bin/sh").env_remove("NO_COLOR");
        script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = script.spawn().expect("`script` (util-linux) makes the terminal");
        let screen = Arc::new(Mutex::new(Screen::new()));
        let (mut out, shown) = (child.stdout.take().unwrap(), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = out.read(&mut bytes) {
                shown.lock().unwrap().take(&bytes[..count]);
            }
        });
        Self { child, screen, folder }
    }

    fn wait(&self, for_what: &str, is_so: impl Fn(&Screen) -> bool) {
        let start = clock::now();
        while !is_so(&self.screen.lock().unwrap()) {
            let screen = self.screen.lock().unwrap();
            let late = clock::now().since(start) > PATIENCE;
            assert!(!late, "never {for_what}:\n{}\n\n{}", screen.shown(), screen.lines);
            drop(screen);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn shows(&self, wanted: &str) {
        self.wait(wanted, |screen| screen.taken && screen.shown().contains(wanted));
    }

    fn press(&mut self, keys: &[u8]) {
        let keyboard = self.child.stdin.as_mut().unwrap();
        keyboard.write_all(keys).unwrap();
        keyboard.flush().unwrap();
    }

    fn resize(&self, columns: u16, rows: u16) {
        let tty = fs::read_to_string(self.folder.path().join("tty")).unwrap();
        let size = [columns, rows].map(|n| n.to_string());
        let done = Command::new("stty").args(["-F", tty.trim(), "cols", &size[0], "rows", &size[1]]).status();
        assert!(done.unwrap().success());
    }

    /// How it ended, and what stood on the screen from the command on; the terminal is as it was.
    fn end(self) -> (Option<i32>, String) {
        self.wait("over", |screen| screen.lines.contains("status="));
        // `script` ends with its shell.
        self.wait("given back", |screen| !screen.taken && screen.cursor);
        let after = self.folder.path().join("after");
        self.wait("looked at", |_| fs::read_to_string(&after).is_ok_and(|after| after.ends_with('\n')));
        let lines = self.screen.lock().unwrap().lines.clone();
        let read = |name: &str| fs::read_to_string(self.folder.path().join(name)).unwrap();
        // The first line holds the size, which changes.
        let settings = |text: String| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(settings(read("after")), settings(read("before")));
        let status = lines
            .split("status=")
            .nth(1)
            .and_then(|status| status.trim().lines().next()?.trim().parse().ok());
        (status, lines)
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running `probe-server`.
struct Listener {
    child: Child,
    target: String,
    _state: tempfile::TempDir,
}

impl Listener {
    fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut command = Command::new(&binaries().unwrap().server);
        command
            .args(["--no-doctor", "--port", "0", "--bind", "127.0.0.1", "--json", "--state-dir"])
            .arg(state.path());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        std::thread::spawn(move || lines.for_each(drop));
        let address = first["tcp"][0].as_str().unwrap();
        let (_, secret) = first["invite"].as_str().unwrap().split_once("/#").unwrap();
        Self { child, target: format!("probe://{address}/#{secret}"), _state: state }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const SOAK: &str = "\"$PROGRAM\" soak \"$TARGET\" --for 30m --out night.probe --allow-sleep --per-class 1";

#[test]
fn the_view_follows_keys_and_sizes_and_ends_in_order() {
    let listener = Listener::start();
    let mut terminal = OnTerminal::start(SOAK, &binaries().unwrap().client, &listener.target);
    for wanted in ["all flows", "udp/random", "10 minutes", "what happened", "q end the run"] {
        terminal.shows(wanted);
    }
    terminal.press(b"h");
    terminal.shows("Any key closes this");
    terminal.press(b"x");
    terminal.shows("nothing so far");
    terminal.press(b"js");
    terminal.shows(": delay, 1 hour");
    terminal.press(b"p");
    terminal.shows("VIEW PAUSED");
    terminal.press(b"p");
    // Smaller: columns are left out. Larger: all are there, and the keys are in the new last line.
    terminal.resize(50, 14);
    terminal.wait("smaller", |screen| screen.grid[13].iter().collect::<String>().contains("up/down flow"));
    terminal.resize(120, 40);
    terminal.wait("larger", |screen| {
        let last = screen.grid[39].iter().collect::<String>();
        last.contains("h help") && screen.shown().contains("unknown")
    });
    terminal.press(b"q");
    terminal.shows("End the run in order");
    terminal.press(b"n");
    terminal.shows("h help");
    terminal.press(b"q");
    terminal.shows("End the run in order");
    terminal.press(b"y");
    let (status, said) = terminal.end();
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("Recorded in night.probe") && said.contains("Does it get through?"), "{said}");
}

#[test]
fn the_second_ctrl_c_ends_it_at_once() {
    let listener = Listener::start();
    let mut terminal = OnTerminal::start(SOAK, &binaries().unwrap().client, &listener.target);
    terminal.shows("udp/random");
    terminal.wait("measured", |screen| screen.shown().contains("0.00 %"));
    // Who does not answer is waited for.
    listener.signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_millis(500));
    terminal.press(b"\x03");
    terminal.shows("Ctrl-C stops at once");
    terminal.press(b"\x03");
    let (status, said) = terminal.end();
    listener.signal(Signal::SIGCONT);
    assert_eq!(status, Some(130), "{said}");
    assert!(!said.contains("Does it get through?"), "{said}");
}

#[test]
fn a_panic_leaves_the_terminal_clean() {
    if std::env::var_os(PANICS).is_some() {
        return panic_beside_a_view();
    }
    let program = std::env::current_exe().unwrap();
    let command = format!(
        "{PANICS}=1 \"$PROGRAM\" --exact a_panic_leaves_the_terminal_clean --nocapture --test-threads=1"
    );
    let terminal = OnTerminal::start(&command, &program, "");
    terminal.shows("q end the run");
    let (status, said) = terminal.end();
    assert_eq!(status, Some(101), "{said}");
    assert!(said.contains("on purpose"), "{said}");
    // Nothing is drawn on what was given back.
    assert!(!said.contains("q end the run"), "{said}");
}

fn panic_beside_a_view() {
    let about = About {
        kind: "soak".to_owned(),
        id: None,
        port: 8886,
        target: "203.0.113.7:8886".to_owned(),
        quick: false,
        resolution: Resolution::Microsecond,
    };
    let sample = clock::sample();
    let now = Clocks { at: sample.boot, wall: sample.wall };
    let recorder = Recorder::create(Path::new("night.probe"), &about, now, 0, Existing::Refuse).unwrap();
    let (target, length) = (about.target, Some(Duration::from_secs(60)));
    let subject = Subject { target, length, file: recorder.watch(), stop: Stop::default() };
    let _view = View::start(subject, false);
    std::thread::sleep(Duration::from_secs(2));
    panic!("on purpose");
}
