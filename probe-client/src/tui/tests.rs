use probe_analysis::made_up::{Night, Weather};
use probe_analysis::observation::{FlowNo, HostEvent, HostFault, Silence};
use probe_protocol::time::Timestamp;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::draw::{Look, Scale, draw};
use super::terminal::wants_to_stop;
use super::*;
use crate::record::Status;

fn watched(seconds: u64) -> (State, Timestamp) {
    let mut state = State::new("203.0.113.7:8886".to_owned(), Some(Duration::from_secs(43_200)));
    for observation in Night::new(Weather::Lossy, 42, Duration::from_secs(seconds), 3) {
        // The made-up night ends; what is watched goes on.
        if !matches!(observation, Observation::FlowEnded(_)) {
            state.see(&observation, Some(Phase::Measure));
        }
    }
    (state, Night::start() + Duration::from_secs(seconds))
}

fn screen(state: &State, look: &mut Look, now: Timestamp, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, state, look, now)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    buffer
        .content
        .chunks(usize::from(width))
        .map(|row| row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>())
        .collect()
}

fn key(code: KeyCode) -> KeyEvent {
    KeyEvent::new(code, KeyModifiers::NONE)
}

#[test]
fn a_screen_of_80_by_24_shows_everything_that_was_asked_for() {
    let (mut state, now) = watched(300);
    state.recording(now, Status { bytes: 1_234_567, trouble: None, dropped: 0 });
    for flow in 3..8 {
        let silence = Silence { flow: FlowNo(flow), since: now, at: now, over: false };
        state.see(&Observation::Silence(silence), None);
    }
    state.tick(now + Duration::from_secs(5));
    let shown = screen(&state, &mut Look::default(), now, 80, 24);
    let all = shown.join("\n");
    for wanted in [
        "203.0.113.7:8886",
        "measuring; 0:05:00 gone, 11:55:00 left",
        "file 1.2 MB; 42 flows open, 5 of them silent, 42 opened so far",
        "flow",
        "lost up",
        "all flows",
        "udp/old-0",
        "SILENT",
        "10 minutes",
        "what happened",
        "tcp/old-3, tls/old-4, udp/old-5 and 2 more fell silent",
        "s scale",
        "q end the run",
    ] {
        assert!(all.contains(wanted), "{wanted:?} is not in\n{all}");
    }
    let row = shown.iter().find(|row| row.contains("all flows ") && row.contains('%')).unwrap();
    let all = state.all.as_ref().unwrap();
    assert!(row.contains(&all.sent.to_string()) && row.contains(&all.lost_up.to_string()), "{row}");
    // The chart has a line in it.
    assert!(
        shown.iter().any(|row| row.chars().filter(|c| ('\u{2801}'..='\u{28ff}').contains(c)).count() > 5),
        "{shown:#?}"
    );
}

#[test]
fn every_size_can_be_drawn_and_keys_do_what_the_help_says() {
    let (state, now) = watched(30);
    let mut look = Look::default();
    for (width, height) in [(80, 24), (200, 60), (40, 12), (20, 5), (1, 1), (80, 8)] {
        for help in [false, true] {
            look.help = help;
            screen(&state, &mut look, now, width, height);
        }
    }
    look = Look::default();
    for _ in 0..100 {
        assert!(!wants_to_stop(key(KeyCode::Down), &mut look));
    }
    let shown = screen(&state, &mut look, now, 80, 24).join("\n");
    assert_eq!(look.selected, 42, "the last of them");
    assert!(shown.contains("udp/old-41: delay"), "{shown}");
    assert!(!wants_to_stop(key(KeyCode::Char('k')), &mut look) && look.selected == 41);
    for expected in [Scale::Hour, Scale::Whole, Scale::Minute, Scale::Minutes] {
        wants_to_stop(key(KeyCode::Char('s')), &mut look);
        assert_eq!(look.scale, expected);
        screen(&state, &mut look, now, 80, 24);
    }
    wants_to_stop(key(KeyCode::Char('?')), &mut look);
    let help = screen(&state, &mut look, now, 80, 24).join("\n");
    assert!(help.contains("pause this view") && help.contains("Any key closes this"), "{help}");
    wants_to_stop(key(KeyCode::Esc), &mut look);
    wants_to_stop(key(KeyCode::Char('p')), &mut look);
    assert!(look.paused && !look.help);
    assert!(screen(&state, &mut look, now, 80, 24).join("\n").contains("VIEW PAUSED"));
    // One key does not end a night by mistake.
    assert!(!wants_to_stop(key(KeyCode::Char('q')), &mut look) && look.asking);
    assert!(!wants_to_stop(key(KeyCode::Char('x')), &mut look) && !look.asking);
    wants_to_stop(key(KeyCode::Char('q')), &mut look);
    assert!(wants_to_stop(key(KeyCode::Char('y')), &mut look));
    assert!(wants_to_stop(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), &mut look));
}

#[test]
fn on_a_narrow_screen_whole_columns_are_left_out_and_none_is_cut() {
    let (state, now) = watched(60);
    for (width, kept, left_out) in [(80, "unknown", "!"), (79, "loss", "unknown"), (40, "lost up", "sent")] {
        let shown = screen(&state, &mut Look::default(), now, width, 24);
        let head = shown.iter().find(|row| row.starts_with("flow")).unwrap();
        assert!(head.contains(kept) && !head.contains(left_out), "{width}: {head}");
        let row = shown.iter().find(|row| row.starts_with("all flows")).unwrap();
        assert!(row.contains(&state.all.as_ref().unwrap().lost_up.to_string()), "{width}: {row}");
    }
}

#[test]
fn without_colour_nothing_is_coloured() {
    let (state, now) = watched(60);
    let coloured = |colour: bool| {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        let mut look = Look { colour, ..Look::default() };
        terminal.draw(|frame| draw(frame, &state, &mut look, now)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        buffer.content.iter().any(|cell| cell.fg != ratatui::style::Color::Reset)
    };
    assert!(coloured(true) && !coloured(false));
}

#[test]
fn a_line_a_minute_says_how_it_goes() {
    let (mut state, now) = watched(120);
    state.recording(now, Status { bytes: 30_000, trouble: None, dropped: 0 });
    let line = lines::minute(&state, now);
    assert!(line.contains("0:02:00  42 flows open; ") && line.contains("probes, lost"), "{line}");
    assert!(line.contains("delay ") && line.contains("file 30 kB; 11:58:00 left"), "{line}");
}

#[test]
fn trouble_with_the_disk_and_the_host_is_told_once() {
    let (mut state, now) = watched(10);
    let full = Status { bytes: 1, trouble: Some("the disk was full".to_owned()), dropped: 0 };
    for _ in 0..3 {
        state.recording(now, full.clone());
    }
    state.recording(now, Status::default());
    let slept = HostEvent { from: now, to: now + Duration::from_secs(30), what: HostFault::Suspended };
    state.see(&Observation::Host(slept), None);
    let told: Vec<String> = state.news().into_iter().map(|told| told.says).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(
        told[0].contains("measuring goes on")
            && told[1].contains("again")
            && told[2].contains("asleep for 30.0 s")
    );
    assert_eq!(state.news(), []);
}

#[test]
fn thousands_of_flows_leave_few_rows() {
    use probe_analysis::observation::{End, FlowEnded};
    let (mut state, now) = watched(5);
    let Some(Observation::FlowPlanned(plan)) = Night::new(Weather::Clean, 1, Duration::from_secs(1), 1)
        .find(|o| matches!(o, Observation::FlowPlanned(_)))
    else {
        panic!("a night plans flows");
    };
    for number in 100..5000 {
        let flow = FlowNo(number);
        let planned = probe_analysis::observation::FlowPlanned { flow, ..plan.clone() };
        state.see(&Observation::FlowPlanned(planned), None);
        state.see(&Observation::FlowEnded(FlowEnded { flow, at: now, end: End::Finished }), None);
    }
    assert!(state.rows.len() <= 42 + 32, "{}", state.rows.len());
}
