-- An empty shop made ready for a load: what constraints.sql adds, taken away in reverse.
alter table events
    drop constraint if exists events_product_id_fkey,
    drop constraint if exists events_user_id_fkey;
alter table order_items
    drop constraint if exists order_items_order_id_fkey,
    drop constraint if exists order_items_product_id_fkey;
alter table orders drop constraint if exists orders_user_id_fkey;

drop index if exists orders_user_id_idx;
drop index if exists order_items_order_id_idx;
drop index if exists events_user_id_idx;

alter table events
    drop constraint if exists events_pkey,
    drop constraint if exists events_event_type_check;
alter table order_items
    drop constraint if exists order_items_pkey,
    drop constraint if exists order_items_quantity_check,
    drop constraint if exists order_items_price_per_unit_check;
alter table orders
    drop constraint if exists orders_pkey,
    drop constraint if exists orders_total_amount_check,
    drop constraint if exists orders_status_check,
    drop constraint if exists orders_life_cycle_check;
alter table products
    drop constraint if exists products_pkey,
    drop constraint if exists products_price_check,
    drop constraint if exists products_stock_check;
alter table users
    drop constraint if exists users_pkey,
    drop constraint if exists users_email_key;
