"""Files on their way into Snowflake: uploads through Hoop, and what a load that was decided on rests on."""
