file=$(bytes 3000000)
sum=$(sha256sum "$file" | cut -d' ' -f1)
expect 200 "\"sha256\":\"$sum\"" /upload --form title=notes --form "files=@$file"
expect 200 '"title":"notes"' /upload --form title=notes --form "files=@$file"
