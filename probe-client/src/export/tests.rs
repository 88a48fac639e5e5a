use std::fs::File;
use std::time::Duration;

use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::Field;
use probe_analysis::made_up::{Night, Weather};
use probe_analysis::observation::{Fate, Observation, Probe};
use probe_protocol::time::WallTime;

use super::*;
use crate::record::{About, Clocks, Existing, Recorder, Resolution};

fn recorded(folder: &std::path::Path) -> (Recording, Vec<Probe>) {
    let path = folder.join("night.probe");
    let about = About {
        kind: "soak".to_owned(),
        id: None,
        port: 8886,
        target: "203.0.113.7:8886".to_owned(),
        quick: false,
        resolution: Resolution::Microsecond,
    };
    let now = Clocks { at: Night::start(), wall: WallTime(1_769_896_800_000_000_000) };
    let recorder = Recorder::create(&path, &about, now, 0, Existing::Refuse).unwrap();
    let night = Night::new(Weather::Lossy, 5, Duration::from_secs(100), 9);
    let seen = night.map(|o| recorder.replay(o));
    let probes =
        seen.filter_map(|o| if let Observation::Probe(probe) = o { Some(probe) } else { None }).collect();
    recorder.finish(None).unwrap();
    (Recording::open(&path).unwrap(), probes)
}

fn exported(recording: &Recording, table: Table, form: Form) -> (u64, Vec<u8>) {
    let mut out = Vec::new();
    let rows = export(recording, table, form, &mut out).unwrap();
    (rows, out)
}

/// Round trip of a probe, computed anew.
fn rtt_us(probe: &Probe) -> Option<f64> {
    let reply = probe.reply?;
    let back = reply.kernel.unwrap_or(reply.at);
    Some((back.0 - probe.sent.0) as f64 / 1e3 - reply.dwell.as_secs_f64() * 1e6)
}

#[test]
fn every_form_holds_every_probe() {
    let folder = tempfile::tempdir().unwrap();
    let (recording, probes) = recorded(folder.path());
    let lost_up = probes.iter().filter(|p| p.fate == Fate::LostUp).count();
    assert!(lost_up > 0);

    let (rows, csv) = exported(&recording, Table::Probes, Form::Csv);
    assert_eq!(rows, probes.len() as u64);
    let mut reader = ::csv::Reader::from_reader(csv.as_slice());
    let names = reader.headers().unwrap().clone();
    let at = |name: &str| names.iter().position(|n| n == name).unwrap();
    for (row, probe) in reader.records().zip(&probes) {
        let row = row.unwrap();
        assert_eq!(row[at("seq")].parse::<u64>().unwrap(), probe.seq);
        assert_eq!(row[at("flow")].parse::<u32>().unwrap(), probe.flow.0);
        assert_eq!(row[at("rtt_us")].is_empty(), probe.reply.is_none());
        if let Some(rtt) = rtt_us(probe) {
            assert!((row[at("rtt_us")].parse::<f64>().unwrap() - rtt).abs() < 1e-6);
        }
        assert!(row[at("sent")].starts_with("2026-01-31T22:0"), "{}", &row[at("sent")]);
    }

    let (rows, lines) = exported(&recording, Table::Probes, Form::Jsonl);
    assert_eq!(rows, probes.len() as u64);
    let lines: Vec<serde_json::Value> =
        String::from_utf8(lines).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), probes.len());
    assert_eq!(lines.iter().filter(|line| line["fate"] == "lost-up").count(), lost_up);

    let (rows, parquet) = exported(&recording, Table::Probes, Form::Parquet);
    assert_eq!(rows, probes.len() as u64);
    let path = folder.path().join("night.parquet");
    std::fs::write(&path, parquet).unwrap();
    let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
    let mut count = 0;
    for (row, probe) in reader.get_row_iter(None).unwrap().zip(&probes) {
        let row = row.unwrap();
        let cell = |name: &str| row.get_column_iter().find(|(n, _)| *n == name).unwrap().1.clone();
        assert_eq!(cell("seq"), Field::Long(i64::try_from(probe.seq).unwrap()));
        match (cell("rtt_us"), rtt_us(probe)) {
            (Field::Null, None) => {}
            (Field::Double(got), Some(rtt)) => assert!((got - rtt).abs() < 1e-6),
            (got, expected) => panic!("{got:?} for {expected:?}"),
        }
        count += 1;
    }
    assert_eq!(count, probes.len());
}

#[test]
fn seconds_add_up_and_other_observations_are_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (recording, probes) = recorded(folder.path());
    let (_, csv) = exported(&recording, Table::Seconds, Form::Csv);
    let mut reader = ::csv::Reader::from_reader(csv.as_slice());
    let sent: u64 = reader.records().map(|row| row.unwrap()[4].parse::<u64>().unwrap()).sum();
    assert_eq!(sent, probes.len() as u64);

    let (rows, lines) = exported(&recording, Table::Observations, Form::Jsonl);
    let lines = String::from_utf8(lines).unwrap();
    assert_eq!(lines.lines().count() as u64, rows);
    let of = |kind: &str| {
        let values = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        values.filter(|line| line["kind"] == kind).collect::<Vec<_>>()
    };
    assert_eq!(of("FlowPlanned").len(), 5);
    assert_eq!(of("FlowPlanned")[0]["content"]["name"], "udp/old-0");
    assert!(of("Watch").len() > 90);
}
