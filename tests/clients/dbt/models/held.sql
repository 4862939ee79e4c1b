select note_id, body, 'dbt_mark' as mark from {{ source('crm', 'SUPPORT_NOTES') }} where note_id <= 3
