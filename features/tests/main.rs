mod activity;
mod history;
mod leakage;
mod restart;
mod rows;
mod scale;
mod store;
mod views;
