expect 200 '5' /hello-exec --data 'how many words are these'
expect 405 '"code":"method_not_allowed"' /hello-exec
