//! The command of a measurement, as it is recorded.

/// What must not be recorded, and what stands for it.
const API_KEY_OPTION: &str = "--api-key";
const HIDDEN: &str = "KEY";

/// Arguments as they can be pasted into a shell, without keys.
pub(super) fn command_line(args: impl Iterator<Item = String>) -> String {
    let mut is_key = false;
    let hidden = |arg: String| match arg.split_once('=') {
        _ if std::mem::replace(&mut is_key, arg == API_KEY_OPTION) => HIDDEN.to_owned(),
        Some((API_KEY_OPTION, _)) => format!("{API_KEY_OPTION}={HIDDEN}"),
        _ => arg,
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    let quoted = |arg: String| match !arg.is_empty() && arg.chars().all(is_plain) {
        true => arg,
        false => format!("'{}'", arg.replace('\'', r"'\''")),
    };
    args.map(hidden).map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_pasted_into_a_shell() {
        let args = ["dsde", "bench", "--policies", "off,fixed:k=4", "a b", "it's", ""];
        let line = command_line(args.into_iter().map(str::to_owned));
        assert_eq!(line, r"dsde bench --policies off,fixed:k=4 'a b' 'it'\''s' ''");
    }

    #[test]
    fn a_command_line_has_no_keys() {
        let args = ["dsde", "--api-key", "secret", "--api-key=secret", "--url", "x"];
        let line = command_line(args.into_iter().map(str::to_owned));
        assert_eq!(line, "dsde --api-key KEY --api-key=KEY --url x");
    }
}
