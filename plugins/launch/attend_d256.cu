// Decode attention for head dim 256.
#include "attend_dispatch.cuh"

template innerq_status innerq::launch_attend_for<256>(const AttendChoice &choice);
