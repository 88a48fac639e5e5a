use std::io::Write;

use probe_analysis::made_up::{MadeUp, Night, Weather};
use probe_analysis::{Evidence, analyse};
use probe_protocol::time::WallTime;
use proptest::prelude::*;

use super::*;
use crate::report::{Origin, build, json};

fn about(resolution: Resolution) -> About {
    About {
        kind: "soak".to_owned(),
        id: Some("0123".to_owned()),
        port: 8886,
        target: "203.0.113.7:8886".to_owned(),
        quick: false,
        resolution,
    }
}

fn clocks() -> Clocks {
    Clocks { at: Night::start(), wall: WallTime(1_769_896_800_000_000_000) }
}

fn create(path: &Path, resolution: Resolution) -> Recorder {
    Recorder::create(path, &about(resolution), clocks(), 0, Existing::Refuse).unwrap()
}

fn record(recorder: &Recorder, observation: Observation) -> Observation {
    recorder.replay(observation)
}

fn read(path: &Path) -> Vec<Observation> {
    let recording = Recording::open(path).unwrap();
    recording.observations().collect::<Result<_, _>>().unwrap()
}

fn judged(observations: &[Observation]) -> String {
    let mut evidence = Evidence::default();
    observations.iter().for_each(|o| evidence.observe(o));
    let origin = Origin { id: None, kind: "soak", port: 8886, quick: false };
    json::render(&build(analyse(&evidence), origin)).unwrap()
}

#[test]
fn a_run_comes_back_as_it_was_in_its_order_and_is_judged_alike() {
    let folder = tempfile::tempdir().unwrap();
    for (number, (weather, resolution)) in [
        (Weather::Clean, Resolution::Microsecond),
        (Weather::Lossy, Resolution::Microsecond),
        (Weather::Lossy, Resolution::Nanosecond),
    ]
    .into_iter()
    .enumerate()
    {
        let path = folder.path().join(format!("{number}.probe"));
        let recorder = create(&path, resolution);
        let night = Night::new(weather, 12, Duration::from_secs(400), 7);
        let live: Vec<Observation> = night.map(|o| record(&recorder, o)).collect();
        assert_eq!(recorder.finish(Some("{}".to_owned())).unwrap().dropped, 0);
        let back = read(&path);
        assert_eq!(back.len(), live.len());
        for (n, (live, back)) in live.iter().zip(&back).enumerate() {
            assert_eq!(live, back, "observation {n}");
        }
        assert_eq!(judged(&live), judged(&back));
        assert!(Recording::open(&path).unwrap().report_by(crate::judge::JUDGEMENT).unwrap().is_some());
        assert_eq!(Recording::open(&path).unwrap().report_by("another").unwrap(), None);
        if resolution == Resolution::Nanosecond {
            let plain: Vec<Observation> = Night::new(weather, 12, Duration::from_secs(400), 7).collect();
            assert_eq!(back, plain, "to the nanosecond nothing is rounded");
        }
        let recording = Recording::open(&path).unwrap();
        let mut sent = 0;
        recording.seconds(|second| sent += u64::from(second.sent + second.excluded)).unwrap();
        assert_eq!(sent, recording.probes().unwrap());
        assert_eq!(recording.report().unwrap().as_deref(), Some("{}"));
        drop(recording);
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
        assert_eq!(left.len(), number + 1, "one file each: {left:?}");
    }
}

#[test]
fn every_made_up_run_is_judged_alike_from_its_file() {
    use probe_analysis::observation::Fate;
    let folder = tempfile::tempdir().unwrap();
    for seed in 0..60u64 {
        let mut run = MadeUp::new("203.0.113.7:8886", seed % 3 > 0);
        for (number, flow) in run.all_open().into_iter().enumerate() {
            run.probes(flow, 40 + seed * 7, |seq| {
                let roll = (seq * 2_654_435_761 + seed * 97 + number as u64 * 13) % 100;
                match roll {
                    r if r < seed % 11 => Fate::LostUp,
                    r if r < seed % 17 => Fate::LostDown,
                    _ => Fate::Received,
                }
            });
        }
        let path = folder.path().join(format!("{seed}.probe"));
        let resolution = if seed % 2 == 0 { Resolution::Nanosecond } else { Resolution::Microsecond };
        let recorder = create(&path, resolution);
        let live: Vec<Observation> = run.end().into_iter().map(|o| record(&recorder, o)).collect();
        recorder.finish(None).unwrap();
        let back = read(&path);
        assert_eq!(live, back);
        assert_eq!(judged(&live), judged(&back), "seed {seed}");
    }
}

/// A file as a kill leaves it, with its log: everything that was committed.
fn killed(folder: &Path, name: &str) -> (PathBuf, Vec<Observation>) {
    let path = folder.join(format!("{name}-running.probe"));
    let held =
        Recorder::create(&path, &about(Resolution::Microsecond), clocks(), 0, Existing::Refuse).unwrap();
    held.finish(None).unwrap();
    let connection = schema::open_to_write(&path, false).unwrap();
    let mut store = Store::new(&path, connection, 1000).unwrap();
    let mut seen = Vec::new();
    let mut now = Night::start();
    for (n, mut observation) in Night::new(Weather::Lossy, 8, Duration::from_secs(300), 3).enumerate() {
        Resolution::Microsecond.round(&mut observation);
        store.take(&observation);
        seen.push(observation);
        if n % 100 == 99 {
            now += Duration::from_secs(1);
            store.commit(now).unwrap();
        }
    }
    store.commit(now).unwrap();
    let copy = folder.join(format!("{name}.probe"));
    for suffix in ["", "-wal"] {
        fs::copy(schema::with_suffix(&path, suffix), schema::with_suffix(&copy, suffix)).unwrap();
    }
    (copy, seen)
}

#[test]
fn a_log_cut_anywhere_costs_only_what_came_last() {
    let folder = tempfile::tempdir().unwrap();
    let (path, seen) = killed(folder.path(), "whole");
    let log = fs::read(schema::with_suffix(&path, "-wal")).unwrap();
    let main = fs::read(&path).unwrap();
    assert!(log.len() > 100_000, "the log holds the latest commits: {}", log.len());
    let mut last = 0;
    for cut in (0..40).map(|n| log.len() * n / 40).chain([log.len()]) {
        let path = folder.path().join("cut.probe");
        fs::write(&path, &main).unwrap();
        fs::write(schema::with_suffix(&path, "-wal"), &log[..cut]).unwrap();
        let back = read(&path);
        assert_eq!(back[..], seen[..back.len()], "cut at {cut}");
        assert!(back.len() >= last, "a longer log holds more");
        last = back.len();
    }
    assert_eq!(last, seen.len());
}

#[test]
fn what_was_under_way_at_a_kill_ends_the_file_and_goes_on_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("running.probe");
    create(&path, Resolution::Microsecond).finish(None).unwrap();
    let mut store = Store::new(&path, schema::open_to_write(&path, false).unwrap(), 1000).unwrap();
    let mut night: Vec<Observation> = Night::new(Weather::Lossy, 8, Duration::from_secs(60), 3).collect();
    night.iter_mut().for_each(|o| Resolution::Microsecond.round(o));
    let (told, later) = night.split_at(3000);
    let probe = |o: &Observation| if let Observation::Probe(probe) = o { Some(*probe) } else { None };
    let under_way: Vec<Probe> = later.iter().filter_map(probe).take(300).collect();
    told.iter().for_each(|o| store.take(o));
    store.open(under_way.clone());
    store.commit(Night::start()).unwrap();
    // Some of them are told before the next commit, but not before the kill.
    let mut more: Vec<Observation> = Vec::new();
    for o in later.iter().take(100) {
        store.take(o);
        more.push(o.clone());
    }
    store.commit(Night::start()).unwrap();
    later[100..].iter().for_each(|o| store.take(o));
    let killed = folder.path().join("killed.probe");
    for suffix in ["", "-wal"] {
        fs::copy(schema::with_suffix(&path, suffix), schema::with_suffix(&killed, suffix)).unwrap();
    }
    let was_told: Vec<Probe> = more.iter().filter_map(probe).collect();
    let left: Vec<Probe> = under_way.iter().filter(|probe| !was_told.contains(probe)).copied().collect();
    assert!(left.len() > 100 && left.len() < under_way.len());

    let back = read(&killed);
    let ordinary = told.len() + more.len();
    assert_eq!(back[..told.len()], *told);
    assert_eq!(back[told.len()..ordinary], more[..]);
    let mut last: Vec<Probe> = back[ordinary..].iter().filter_map(probe).collect();
    let order = |probe: &Probe| (probe.flow, probe.seq);
    last.sort_by_key(order);
    let mut expected = left.clone();
    expected.sort_by_key(order);
    assert_eq!(last, expected, "each once, and none that was told");
    let probes = Recording::open(&killed).unwrap().probes().unwrap();
    assert_eq!(probes, back.iter().filter_map(probe).count() as u64);

    // Resumed, they are part of the run, and a clean end leaves none under way.
    let now = Clocks { at: Night::start() + Duration::from_secs(100), ..clocks() };
    let mut seen = Vec::new();
    let wanted = about(Resolution::Microsecond);
    let recorder = Recorder::resume(&killed, &wanted, "soak", now, 0, &mut |o| seen.push(o.clone())).unwrap();
    assert_eq!(seen[..back.len()], back[..]);
    recorder.finish(None).unwrap();
    assert_eq!(read(&killed), seen);
    assert!(Recording::open(&killed).unwrap().open_probes().is_empty());
}

#[test]
fn a_copy_without_its_log_opens_and_holds_the_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let (path, seen) = killed(folder.path(), "mailed");
    fs::remove_file(schema::with_suffix(&path, "-wal")).unwrap();
    let back = read(&path);
    assert_eq!(back[..], seen[..back.len()]);
}

#[test]
fn a_crash_while_the_log_is_taken_in_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (path, seen) = killed(folder.path(), "torn");
    let (before, log) = (fs::read(&path).unwrap(), fs::read(schema::with_suffix(&path, "-wal")).unwrap());
    drop(schema::open_to_write(&path, false).map(|c| schema::checkpoint(&c, true)).unwrap());
    let after = fs::read(&path).unwrap();
    assert!(after.len() > before.len());
    // Any part of the pages may have been written when the power went, in any order.
    for stride in [2, 3, 5] {
        let torn = folder.path().join(format!("torn-{stride}.probe"));
        let mut pages = before.clone();
        pages.resize(after.len(), 0);
        for (n, page) in after.chunks(1024).enumerate() {
            if n % stride == 1 {
                pages[n * 1024..n * 1024 + page.len()].copy_from_slice(page);
            }
        }
        fs::write(&torn, &pages).unwrap();
        fs::write(schema::with_suffix(&torn, "-wal"), &log).unwrap();
        assert_eq!(read(&torn), seen);
    }
}

#[test]
fn a_full_disk_costs_nothing_that_fits_into_memory_and_nothing_that_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("full.probe");
    create(&path, Resolution::Microsecond).finish(None).unwrap();
    let connection = schema::open_to_write(&path, false).unwrap();
    let pages: u32 = connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    connection.pragma_update(None, "max_page_count", pages + 20).unwrap();
    let mut store = Store::new(&path, connection, 1000).unwrap();
    let mut now = Night::start();
    let (mut seen, mut refused, mut written) = (Vec::new(), 0, 0);
    for (n, mut observation) in Night::new(Weather::Clean, 8, Duration::from_secs(900), 3).enumerate() {
        Resolution::Microsecond.round(&mut observation);
        store.take(&observation);
        seen.push(observation);
        if n % 100 == 99 {
            now += Duration::from_secs(1);
            match store.commit(now) {
                Ok(()) => written = seen.len(),
                Err(error) => {
                    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::DiskFull));
                    refused += 1;
                }
            }
            if n == 20_099 {
                assert!(refused > 10, "the disk is full by now");
                assert_eq!(read(&path), seen[..written], "what was written stays readable");
                store.make_room(pages + 100_000);
            }
        }
    }
    assert!(refused > 10 && store.dropped() == 0);
    store.finish(now).unwrap();
    assert_eq!(read(&path), seen);
}

#[test]
fn a_resumed_run_is_one_run_with_its_gap() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("night.probe");
    let recorder = create(&path, Resolution::Microsecond);
    let length = Duration::from_secs(20);
    let first: Vec<_> = Night::new(Weather::Clean, 4, length, 1).map(|o| record(&recorder, o)).collect();
    recorder.finish(None).unwrap();

    let mut seen = Vec::new();
    // The host was started anew: its clock began at one second; the wall clock says 100 s after the start.
    let now = Clocks { at: Timestamp(1_000_000_000), wall: WallTime(clocks().wall.0 + 100_000_000_000) };
    let recorder = Recorder::resume(&path, &about(Resolution::Microsecond), "soak", now, 0, &mut |o| {
        seen.push(o.clone());
    })
    .unwrap();
    assert_eq!(seen[..], first[..first.len() - 1], "all but its end");
    let again = Night::new(Weather::Clean, 4, length, 2).map(|mut o| {
        // Its clock.
        let back = Segment {
            shift_ns: 1_000_000_000 - Night::start().0.cast_signed(),
            before: None,
            ..Segment::first()
        };
        if let Observation::RunStarted(started) = &mut o {
            started.at = now.at;
            return o;
        }
        Segment { before: Some(Timestamp::ZERO), ..back }.place(o)
    });
    seen.extend(again.map(|o| record(&recorder, o)));
    recorder.finish(None).unwrap();

    let back = read(&path);
    assert_eq!(back, seen);
    let gap = back.iter().find_map(|o| {
        if let Observation::Host(HostEvent { from, to, what: HostFault::NotRunning }) = o {
            Some(to.since(*from))
        } else {
            None
        }
    });
    let gap = gap.unwrap();
    assert!(gap > Duration::from_secs(79) && gap < Duration::from_secs(81), "{gap:?}");
    let numbers: Vec<u32> = back
        .iter()
        .filter_map(|o| if let Observation::FlowPlanned(o) = o { Some(o.flow.0) } else { None })
        .collect();
    assert_eq!(numbers, (0..8).collect::<Vec<_>>());
    let mut evidence = Evidence::default();
    back.iter().for_each(|o| evidence.observe(o));
    let analysis = analyse(&evidence);
    assert!(analysis.run.complete && analysis.run.duration_s > 119.0, "{:?}", analysis.run);
    assert_eq!(analysis.flows.len(), 8);
    assert!(analysis.events.iter().any(|event| event.kind == "not-running"));

    let refused = |about: &About, kind| {
        Recorder::resume(&path, about, kind, now, 0, &mut |_| ()).map(|_| ()).unwrap_err().to_string()
    };
    assert!(refused(&about(Resolution::Microsecond), "check").contains("`soak`"));
    let other = About { target: "192.0.2.1:8886".to_owned(), ..about(Resolution::Microsecond) };
    assert!(refused(&other, "soak").contains("a run to 203.0.113.7:8886, not to 192.0.2.1:8886"));
}

#[test]
fn what_is_no_file_of_ours_is_named_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("good.probe");
    let recorder = create(&good, Resolution::Microsecond);
    Night::new(Weather::Clean, 4, Duration::from_secs(60), 1).for_each(|o| drop(record(&recorder, o)));
    recorder.finish(None).unwrap();
    let bytes = fs::read(&good).unwrap();

    let check = |name: &str, content: &[u8], expected: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        let result = Recording::open(&path)
            .and_then(|recording| recording.observations().collect::<Result<Vec<_>, _>>().map(|_| ()));
        let says = result.unwrap_err().to_string();
        assert!(says.contains(expected) && !says.contains('\n'), "{name}: {says}");
        assert_eq!(fs::read(&path).unwrap(), content, "{name} is as it was");
        for suffix in ["-wal", "-shm", "-journal"] {
            assert!(!schema::with_suffix(&path, suffix).exists(), "{name}{suffix}");
        }
    };
    check("empty.probe", b"", "not a .probe file");
    check("text.probe", b"Dear Sir or Madam,\n", "not a .probe file");
    check("short.probe", &bytes[..60], "cut off");
    check("half.probe", &bytes[..bytes.len() / 2], "cut off");
    let changed = |at: usize, with: &[u8]| {
        let mut changed = bytes.clone();
        changed[at..at + with.len()].copy_from_slice(with);
        changed
    };
    check("other.probe", &changed(68, &[0; 4]), "not a .probe file");
    check("newer.probe", &changed(60, &2u32.to_be_bytes()), "newer");
    // A page of the tables, and bytes within a chunk.
    check("tables.probe", &changed(4096, &[0xff; 64]), "damaged");
    let places = bytes.len() / 2..bytes.len() / 2 + 2000;
    check("chunk.probe", &changed(places.start, &vec![0x55; places.len()]), "damaged");
    assert!(matches!(Recording::open(folder.path()), Err(FileError::Foreign(_))));
    assert!(matches!(Recording::open(&folder.path().join("none.probe")), Err(FileError::Missing(_))));
    read(&good);
}

#[test]
fn a_file_that_is_there_is_not_overwritten_unless_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("there.probe");
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(b"a letter").unwrap();
    let again = |existing, need| {
        Recorder::create(&path, &about(Resolution::Microsecond), clocks(), need, existing).map(|_| ())
    };
    assert!(matches!(again(Existing::Refuse, 0), Err(FileError::Exists(_))));
    assert!(matches!(again(Existing::Overwrite, u64::MAX), Err(FileError::NoRoom { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"a letter");
    let recorder =
        Recorder::create(&path, &about(Resolution::Microsecond), clocks(), 0, Existing::Overwrite).unwrap();
    // While it is being written, nobody else writes it.
    if cfg!(target_os = "linux") {
        assert!(matches!(again(Existing::Overwrite, 0), Err(FileError::Busy(_))));
    }
    recorder.finish(None).unwrap();
    assert_eq!(read(&path), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_damage_is_an_error_or_harmless(at in any::<proptest::sample::Index>(), with in any::<[u8; 16]>()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("damaged.probe");
        let recorder = create(&path, Resolution::Microsecond);
        Night::new(Weather::Clean, 4, Duration::from_secs(20), 1).for_each(|o| drop(record(&recorder, o)));
        recorder.finish(None).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let place = at.index(bytes.len() - with.len());
        bytes[place..place + with.len()].copy_from_slice(&with);
        fs::write(&path, &bytes).unwrap();
        if let Ok(recording) = Recording::open(&path) {
            // Reading ends, and does not panic.
            let _ = recording.observations().filter(Result::is_ok).count();
        }
    }
}

#[test]
fn a_probe_takes_about_four_bytes_on_a_clean_path_and_at_most_six_on_a_lossy_one() {
    let folder = tempfile::tempdir().unwrap();
    for (weather, most) in [(Weather::Clean, 4.1), (Weather::Lossy, 6.0)] {
        let path = folder.path().join(format!("{weather:?}.probe"));
        let recorder = create(&path, Resolution::Microsecond);
        Night::new(weather, 42, Duration::from_secs(500), 7).for_each(|o| drop(record(&recorder, o)));
        recorder.finish(None).unwrap();
        let recording = Recording::open(&path).unwrap();
        let probes = recording.probes().unwrap() as f64;
        let per_probe = |table: &str| {
            let bytes: i64 = recording
                .connection()
                .query_row(&format!("SELECT coalesce(sum(length(body)), 0) FROM {table}"), [], |row| {
                    row.get(0)
                })
                .unwrap();
            bytes as f64 / probes
        };
        let tables = ["chunks", "packed"].map(|table| (table, per_probe(table)));
        let all: f64 = tables.iter().map(|(_, bytes)| bytes).sum();
        assert!(all <= most, "{weather:?}: {all:.2} bytes per probe: {tables:?}");
    }
}
