//! One customer in words, told from the API's answers alone.

use anyhow::{Context, Result};
use serde_json::Value;

/// Of the newest buyers, the one whose history tells most.
const CANDIDATES: usize = 20;

pub async fn tell(client: &reqwest::Client, base: &str) -> Result<Vec<String>> {
    let ask = async |path: String| -> Result<Value> {
        let answer = client.get(format!("{base}/api/v1/{path}")).send().await?.error_for_status()?;
        Ok(answer.json().await?)
    };
    let recent = ask(format!("customers?limit={CANDIDATES}")).await?;
    let mut profiles = Vec::new();
    for customer in recent["customers"].as_array().context("the answer holds no customers")? {
        profiles.push(ask(format!("customers/{}", customer["user_id"])).await?);
    }
    let profile = profiles
        .into_iter()
        .max_by_key(|profile| profile["frequency"].as_u64())
        .context("nobody has bought anything")?;
    let id = &profile["user_id"];
    let name = profile["name"].as_str().unwrap_or("A customer");

    let mut story = vec![format!(
        "{name} (customer {id}) has placed {} orders for {} in all, the last one {} days ago.",
        profile["frequency"],
        text(&profile["monetary"]),
        profile["recency_days"],
    )];
    let orders = ask(format!("customers/{id}/orders?limit=1")).await?;
    let bought: Vec<&str> = orders["orders"][0]["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|item| item["name"].as_str())
        .take(5)
        .collect();
    if !bought.is_empty() {
        story.push(format!("In the newest basket: {}.", bought.join(", ")));
    }
    let list = ask(format!("customers/{id}/recommendations?k=3&explain=true")).await?;
    for recommended in list["recommendations"].as_array().into_iter().flatten() {
        let why = recommended["reasons"][0]["text"].as_str().unwrap_or("it fits");
        story.push(format!("We would recommend {}: {why}.", text(&recommended["name"])));
    }
    let churn = ask(format!("customers/{id}/churn")).await?;
    if let Some(risk) = churn["churn_probability"].as_f64() {
        let why = churn["reasons"][0]["text"].as_str().unwrap_or("no one thing stands out");
        story.push(format!(
            "The risk that {name} places no order in the next {} days is {:.0} %: {why}.",
            churn["horizon_days"],
            risk * 100.0
        ));
    }
    Ok(story)
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}
