//! Values that differ from seed to seed.
//!
//! `[vary]` names them: `rate = { between = ["5M", "50M"], beyond = [["1M", "4M"], ["60M", "100M"]], log = true }` or
//! `port = { one_of = [53, 443] }`. Anywhere else in the file `"$rate"` stands for the value drawn, and `"$rate*0.5"`
//! for a multiple. Thresholds are chosen on even seeds, which draw from `between`; odd seeds draw from `beyond`.

use std::collections::BTreeMap;

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use toml::{Table, Value};

use crate::rules::units;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Varied {
    #[serde(default)]
    between: Option<(Value, Value)>,
    #[serde(default)]
    beyond: Vec<(Value, Value)>,
    #[serde(default)]
    one_of: Vec<Value>,
    /// Draws evenly on a logarithmic scale.
    #[serde(default)]
    log: bool,
}

/// Takes `vary` out of a scenario and puts what it draws in place of the names. Gives what was drawn, as text.
pub(super) fn resolve(table: &mut Table, seed: u64) -> Result<BTreeMap<String, String>, String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut drawn = BTreeMap::new();
    let vary = match table.remove("vary") {
        Some(Value::Table(vary)) => vary,
        Some(_) => return Err("`vary` must be a table".into()),
        None => Table::new(),
    };
    for (name, entry) in vary {
        let varied: Varied = entry.try_into().map_err(|error| format!("vary.{name}: {error}"))?;
        let value = varied.draw(&mut rng, seed % 2 == 1).map_err(|what| format!("vary.{name}: {what}"))?;
        drawn.insert(name, value);
    }
    for (_, value) in table.iter_mut() {
        replace(value, &drawn)?;
    }
    Ok(drawn.into_iter().map(|(name, value)| (name, text(&value))).collect())
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn replace(value: &mut Value, drawn: &BTreeMap<String, Value>) -> Result<(), String> {
    if let Some(name) = value.as_str().and_then(|text| text.strip_prefix('$')) {
        let (name, factor) = match name.split_once('*') {
            Some((name, factor)) => {
                (name, Some(factor.parse::<f64>().map_err(|_| format!("`${name}*{factor}` is no multiple"))?))
            }
            None => (name, None),
        };
        let found = drawn.get(name).ok_or_else(|| format!("`${name}` is not in `vary`"))?;
        *value = match factor {
            None => found.clone(),
            Some(factor) => scaled(found, factor)?,
        };
    } else if let Some(list) = value.as_array_mut() {
        list.iter_mut().try_for_each(|value| replace(value, drawn))?;
    } else if let Some(table) = value.as_table_mut() {
        table.iter_mut().try_for_each(|(_, value)| replace(value, drawn))?;
    }
    Ok(())
}

/// A number and its unit; numbers have none.
fn number(value: &Value) -> Result<(f64, String), String> {
    if let Some(text) = value.as_str() {
        let (number, unit) = units::split(text).ok_or_else(|| format!("`{text}` is no number"))?;
        return Ok((number, unit.to_owned()));
    }
    let number = value.as_float().or_else(|| value.as_integer().map(|n| n as f64));
    Ok((number.ok_or_else(|| format!("`{value}` is no number"))?, String::new()))
}

fn scaled(value: &Value, factor: f64) -> Result<Value, String> {
    let (size, unit) = number(value)?;
    Ok(written(size * factor, &unit, value.is_integer()))
}

fn written(number: f64, unit: &str, integer: bool) -> Value {
    if integer {
        Value::Integer(number.round() as i64)
    } else if unit.is_empty() {
        Value::Float(number)
    } else {
        Value::String(format!("{number:.4}{unit}"))
    }
}

impl Varied {
    fn draw(&self, rng: &mut ChaCha8Rng, outside: bool) -> Result<Value, String> {
        if let Some(value) = self.one_of.choose(rng) {
            return Ok(value.clone());
        }
        let range = if outside { self.beyond.choose(rng) } else { None };
        let (from, to) = range.or(self.between.as_ref()).ok_or("needs `between` or `one_of`")?;
        let ((low, unit), (high, other)) = (number(from)?, number(to)?);
        if unit != other {
            return Err(format!("both ends need one unit, not `{unit}` and `{other}`"));
        }
        if low.is_nan() || high < low || (self.log && low <= 0.0) {
            return Err(format!("`{from}` to `{to}` is no range"));
        }
        let share: f64 = rng.random();
        let drawn = if self.log { low * (high / low).powf(share) } else { low + (high - low) * share };
        Ok(written(drawn, &unit, from.is_integer() && to.is_integer()))
    }
}
