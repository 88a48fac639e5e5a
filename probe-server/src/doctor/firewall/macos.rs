//! Reads what macOS's application firewall says (`socketfilterfw`). It admits or refuses programs, not ports.

/// The application firewall's answers, each as the tool printed it.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers {
    /// `--getglobalstate`
    pub(super) global: String,
    /// `--getblockall`
    pub(super) block_all: String,
    /// `--listapps`
    pub(super) apps: String,
}

/// What it does with a program's listening sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MacSays {
    Off,
    Allowed,
    /// By which setting.
    Blocked(String),
    /// No rule for the program: the system asks the person at the screen at its first start.
    Asks,
    Unknown(String),
}

/// What the firewall does with the program at `path`.
pub(super) fn says(answers: &Answers, path: &str) -> MacSays {
    let global = answers.global.to_lowercase();
    if global.contains("disabled") || global.contains("state = 0") {
        return MacSays::Off;
    }
    if !global.contains("enabled") {
        return MacSays::Unknown(format!("socketfilterfw --getglobalstate: {}", answers.global.trim()));
    }
    let block_all = answers.block_all.to_lowercase();
    // "Block all DISABLED!" of old, "Firewall has block all state set to disabled." of new.
    if block_all.contains("enabled") {
        return MacSays::Blocked("block all incoming connections".to_owned());
    }
    if !block_all.contains("disabled") {
        return MacSays::Unknown(format!("socketfilterfw --getblockall: {}", answers.block_all.trim()));
    }
    let mut lines = answers.apps.lines().map(str::trim);
    while let Some(line) = lines.next() {
        // `1 :  /path/to/program` and, on the next line, `( Allow incoming connections )`.
        let Some((number, program)) = line.split_once(':') else { continue };
        if number.trim().parse::<u32>().is_err() || program.trim() != path {
            continue;
        }
        let rule = lines.next().unwrap_or_default().to_lowercase();
        return if rule.contains("allow") {
            MacSays::Allowed
        } else if rule.contains("block") {
            MacSays::Blocked(format!("rule for {path}"))
        } else {
            MacSays::Unknown(format!("rule for {path}: {rule}"))
        };
    }
    MacSays::Asks
}

#[cfg(test)]
mod tests {
    use super::*;

    const APPS: &str = "Total number of apps = 2 \n1 : /usr/local/bin/probe-server \n             (Block incoming \
                        connections)\n2 : /Applications/Other.app \n             (Allow incoming connections)\n";

    fn answers(global: &str, block_all: &str, apps: &str) -> Answers {
        Answers { global: global.to_owned(), block_all: block_all.to_owned(), apps: apps.to_owned() }
    }

    #[test]
    fn recorded_answers_are_judged() {
        let on = "Firewall is enabled. (State = 1)\n";
        let no = "Firewall has block all state set to disabled.\n";
        let path = "/usr/local/bin/probe-server";
        assert_eq!(says(&answers("Firewall is disabled. (State = 0)\n", no, APPS), path), MacSays::Off);
        assert!(matches!(says(&answers(on, no, APPS), path), MacSays::Blocked(rule) if rule.contains(path)));
        assert_eq!(says(&answers(on, no, APPS), "/Applications/Other.app"), MacSays::Allowed);
        assert_eq!(says(&answers(on, no, APPS), "/tmp/new"), MacSays::Asks);
        assert!(matches!(
            says(
                &answers(on, "Firewall has block all state set to enabled.", APPS),
                "/Applications/Other.app"
            ),
            MacSays::Blocked(_)
        ));
        assert!(matches!(says(&answers("", "", ""), path), MacSays::Unknown(_)));
    }
}
