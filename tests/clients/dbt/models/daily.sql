{{ config(materialized='incremental', unique_key='order_id', tmp_relation_type='table') }}
select order_id, amount from {{ source('crm', 'ORDERS') }}
where order_id <= {% if is_incremental() %} 60 {% else %} 50 {% endif %}
