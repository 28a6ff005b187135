-- Added after a load: each is checked by one scan, where a row-by-row check would slow COPY tenfold.
alter table users
    add constraint users_pkey primary key (user_id),
    add constraint users_email_key unique (email);
alter table products
    add constraint products_pkey primary key (product_id),
    add constraint products_price_check check (price >= 0),
    add constraint products_stock_check check (stock >= 0);
alter table orders
    add constraint orders_pkey primary key (order_id),
    add constraint orders_total_amount_check check (total_amount >= 0),
    add constraint orders_status_check check (
        status in ('placed', 'paid', 'shipped', 'completed', 'cancelled', 'returned')
    ),
    add constraint orders_life_cycle_check check (
        case status
            when 'placed' then num_nulls(paid_at, shipped_at, completed_at, cancelled_at, returned_at) = 5
            when 'paid' then paid_at is not null
                and num_nulls(shipped_at, completed_at, cancelled_at, returned_at) = 4
            when 'shipped' then shipped_at is not null
                and num_nulls(completed_at, cancelled_at, returned_at) = 3
            when 'completed' then completed_at is not null and num_nulls(cancelled_at, returned_at) = 2
            when 'cancelled' then cancelled_at is not null and num_nulls(shipped_at, completed_at, returned_at) = 3
            else returned_at is not null and cancelled_at is null
        end
    );
alter table order_items
    add constraint order_items_pkey primary key (order_item_id),
    add constraint order_items_quantity_check check (quantity >= 1),
    add constraint order_items_price_per_unit_check check (price_per_unit >= 0);
alter table events
    add constraint events_pkey primary key (event_id),
    add constraint events_event_type_check check (event_type in ('view', 'cart', 'remove_from_cart', 'purchase'));

create index orders_user_id_idx on orders (user_id);
create index order_items_order_id_idx on order_items (order_id);
create index events_user_id_idx on events (user_id);

alter table orders
    add constraint orders_user_id_fkey foreign key (user_id) references users not valid;
alter table order_items
    add constraint order_items_order_id_fkey foreign key (order_id) references orders not valid,
    add constraint order_items_product_id_fkey foreign key (product_id) references products not valid;
alter table events
    add constraint events_product_id_fkey foreign key (product_id) references products not valid,
    add constraint events_user_id_fkey foreign key (user_id) references users not valid;
alter table orders validate constraint orders_user_id_fkey;
alter table order_items validate constraint order_items_order_id_fkey;
alter table order_items validate constraint order_items_product_id_fkey;
alter table events validate constraint events_product_id_fkey;
alter table events validate constraint events_user_id_fkey;
