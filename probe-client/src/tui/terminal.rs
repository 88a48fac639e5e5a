//! The terminal: keys in, frames out. It is put back as it was, also after a panic anywhere in the program.

use std::io::{self, BufWriter, Stderr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Mutex, Once, PoisonError, TryLockError};
use std::time::Duration;

use probe_net::clock;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::{Frame, Terminal};

use super::draw::{Look, draw};
use super::state::State;
use super::{News, Subject};

/// Time from one frame to the next, at least.
const FRAME: Duration = Duration::from_millis(250);
/// Observations taken between two looks at the keys, at most.
const AT_ONCE: usize = 4096;

/// Looks at whether a frame is being drawn, before the terminal is given back in the middle of it.
const LOOKS: u32 = 20;

/// Whether the terminal is ours at present.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// Held while a frame is drawn: what another thread's panic gives back is not drawn upon afterwards.
static DRAWING: Mutex<()> = Mutex::new(());

/// The terminal, taken; given back when this goes away. A frame leaves in one piece, not letter by letter.
struct Taken(Terminal<CrosstermBackend<BufWriter<Stderr>>>);

impl Taken {
    fn take() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                give_back();
                before(panic);
            }));
        });
        TAKEN.store(true, Ordering::Release);
        let taken = enable_raw_mode()
            .and_then(|()| execute!(io::stderr(), EnterAlternateScreen))
            .and_then(|()| Terminal::new(CrosstermBackend::new(BufWriter::new(io::stderr()))));
        taken.map(Self).inspect_err(|_| give_back())
    }

    /// Draws a frame; false where the terminal is not ours any more.
    fn draw(&mut self, draws: impl FnOnce(&mut Frame<'_>)) -> io::Result<bool> {
        let _drawing = DRAWING.lock().unwrap_or_else(PoisonError::into_inner);
        if !TAKEN.load(Ordering::Acquire) {
            return Ok(false);
        }
        self.0.draw(draws).map(|_| true)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    if TAKEN.swap(false, Ordering::AcqRel) {
        // Not waited for without end: it may be the drawing that panics.
        let mut drawing = DRAWING.try_lock();
        for _ in 0..LOOKS {
            if !matches!(drawing, Err(TryLockError::WouldBlock)) {
                break;
            }
            std::thread::sleep(FRAME / LOOKS);
            drawing = DRAWING.try_lock();
        }
        // Nobody is left to be told where this fails.
        let _ = disable_raw_mode();
        let _ = execute!(io::stderr(), LeaveAlternateScreen, Show);
    }
}

/// Shows until the run is finished.
///
/// # Errors
/// The terminal cannot be taken, or is gone; the state is as it was last shown.
pub(super) fn run(state: &mut State, subject: &Subject, news: &Receiver<News>) -> io::Result<()> {
    let mut taken = Taken::take()?;
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut look = Look { colour, ..Look::default() };
    // What is shown while the view is paused.
    let mut paused: Option<State> = None;
    loop {
        for _ in 0..AT_ONCE {
            match news.try_recv() {
                Ok(News::Seen(observation, phase)) => state.see(&observation, phase),
                Ok(News::Finish) | Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => break,
            }
        }
        let now = clock::now();
        state.recording(now, subject.file.status());
        state.tick(now);
        match (look.paused, paused.is_some()) {
            (true, false) => {
                look.paused_at = Some(now);
                paused = Some(state.clone());
            }
            (false, true) => paused = None,
            (true, true) | (false, false) => {}
        }
        let shown = paused.as_ref().unwrap_or(state);
        let at = look.paused_at.filter(|_| look.paused).unwrap_or(now);
        if !taken.draw(|frame| draw(frame, shown, &mut look, at))? {
            return Ok(());
        }
        if event::poll(FRAME)? {
            while event::poll(Duration::ZERO)? {
                if let Event::Key(key) = event::read()?
                    && key.kind != KeyEventKind::Release
                    && wants_to_stop(key, &mut look)
                {
                    state.stopping = true;
                    subject.stop.request();
                }
            }
        }
    }
}

/// Does what a key says; whether it asks for the end of the run.
pub(super) fn wants_to_stop(key: KeyEvent, look: &mut Look) -> bool {
    // In this mode the terminal makes no signal of Ctrl-C.
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return matches!(key.code, KeyCode::Char('c'));
    }
    if look.asking {
        look.asking = false;
        return matches!(key.code, KeyCode::Char('y' | 'Y') | KeyCode::Enter);
    }
    if look.help {
        look.help = false;
        return false;
    }
    if let KeyCode::Char(letter) = key.code {
        match letter {
            'q' => look.asking = true,
            'p' | ' ' => look.paused = !look.paused,
            's' => look.scale = look.scale.next(),
            'h' | '?' => look.help = true,
            'j' => look.selected = look.selected.saturating_add(1),
            'k' => look.selected = look.selected.saturating_sub(1),
            _ => {}
        }
        return false;
    }
    if key.code == KeyCode::Down {
        look.selected = look.selected.saturating_add(1);
    } else if key.code == KeyCode::Up {
        look.selected = look.selected.saturating_sub(1);
    } else if key.code == KeyCode::PageDown {
        look.selected = look.selected.saturating_add(8);
    } else if key.code == KeyCode::PageUp {
        look.selected = look.selected.saturating_sub(8);
    } else if key.code == KeyCode::Home {
        look.selected = 0;
    }
    false
}
