expect 200 'data: 5' '/stream?times=5'
# The first event is here long before the last is written.
expect_output 'data: 1' bash -c "curl --silent --no-buffer '$URL/stream?times=1000' | head -n 2"
