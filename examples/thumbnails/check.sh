expect 200 'JFIF' '/thumbnails?size=64' --data-binary "@$EXAMPLE/sample.png" --header 'content-type: image/png'
expect 415 'Send a picture' /thumbnails --data 'not a picture'
