expect 200 '{"degrees":100}' '/to-celsius?degrees=212'
expect 200 '{"degrees":212}' '/to-fahrenheit?degrees=100'
expect 400 'Say ?degrees=NUMBER.' /to-celsius
