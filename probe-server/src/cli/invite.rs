//! `probe-server invite`.

use probe_net::clock;
use probe_protocol::target::Target;
use probe_protocol::time::WallTime;
use serde::Serialize;

use super::args::InviteArgs;
use super::{Exit, Failure, print};
use crate::listener::{local_address, random};
use crate::state::{InviteRecord, InviteStore, StateDir};
use crate::tls::Certificate;

/// An invite as listed; its secret is not.
#[derive(Serialize)]
struct Listed {
    label: String,
    created: String,
    expires: Option<String>,
    state: &'static str,
}

pub(super) fn run(args: &InviteArgs) -> Result<Exit, Failure> {
    let path = match &args.state_dir {
        Some(dir) => dir.clone(),
        None => StateDir::default_path()?,
    };
    let state = StateDir::open(&path)?;
    let store = InviteStore::of(&state);
    let now = clock::wall();
    if args.list {
        return list(&store.all()?, now, args.json);
    }
    if let Some(label) = &args.revoke {
        let revoked = store.revoke(label, now)?;
        return if args.json {
            json(&listed(&revoked, now))
        } else {
            print(&format!(
                "invite {label} is revoked; a listener that runs refuses it within a second or two\n"
            ))
            .map(|()| Exit::Ok)
        };
    }
    let fingerprint = match &args.cert {
        Some(cert) => Certificate::fingerprint_of_pem(cert),
        None => Certificate::own(Some(&state)).map(|c| c.fingerprint()),
    }
    .map_err(crate::StartError::from)?;
    let record = match args.for_ {
        Some(span) => {
            let until = now.as_secs().saturating_add_unsigned(span.0.as_secs());
            // Rounded up: an invite for 90 s is not to be over after 60.
            let minute = u32::try_from(until.saturating_add(59) / 60).map_err(|_| {
                Failure::new(Exit::Usage, "--for is too long: leave it out for an invite that never expires")
            })?;
            store.add(random()?, Some(minute), now)?
        }
        None => store.standing(random()?, now)?,
    };
    let invite = record
        .invite(fingerprint)
        .ok_or_else(|| Failure::new(Exit::CouldNot, "the invite's key is damaged"))?;
    let place = args.public.clone().unwrap_or_else(|| {
        let host = local_address().map_or_else(|| "HOST".to_owned(), |ip| ip.to_string());
        Target { host, port: probe_protocol::DEFAULT_PORT, invite: None }
    });
    let url = Target { invite: Some(invite), ..place }.to_url();
    if args.json {
        #[derive(Serialize)]
        struct Made {
            invite: String,
            #[serde(flatten)]
            listed: Listed,
        }
        return json(&Made { invite: url, listed: listed(&record, now) });
    }
    print(&format!("{url}\n")).map(|()| Exit::Ok)
}

fn json(value: &impl Serialize) -> Result<Exit, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(std::io::Error::other)?;
    print(&format!("{text}\n")).map(|()| Exit::Ok)
}

fn listed(record: &InviteRecord, now: WallTime) -> Listed {
    let time = |s: i64| jiff::Timestamp::from_second(s).map_or_else(|_| s.to_string(), |t| t.to_string());
    let state = match (record.revoked_s, record.is_good(now)) {
        (Some(_), _) => "revoked",
        (None, true) => "good",
        (None, false) => "expired",
    };
    Listed {
        label: record.label.clone(),
        created: time(record.created_s),
        expires: record.expires_minute.map(|m| time(i64::from(m) * 60)),
        state,
    }
}

fn list(all: &[InviteRecord], now: WallTime, as_json: bool) -> Result<Exit, Failure> {
    let all: Vec<_> = all.iter().map(|r| listed(r, now)).collect();
    if as_json {
        return json(&all);
    }
    let mut text = String::from("label     state    created               expires\n");
    for invite in all {
        let expires = invite.expires.as_deref().unwrap_or("never");
        text.push_str(&format!("{}  {:<7}  {}  {expires}\n", invite.label, invite.state, invite.created));
    }
    print(&text).map(|()| Exit::Ok)
}
